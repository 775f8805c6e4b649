/// The decoder families beside LLaMA of which there are recordings, each in a folder `families/NAME`.
pub const FAMILIES: [&str; 13] = [
    "gemma2",
    "gemma3",
    "granite",
    "llama_dynamic",
    "llama_yarn",
    "ministral3",
    "mistral",
    "olmo2",
    "phi3",
    "phi3_longrope",
    "qwen2",
    "qwen3",
    "smollm3",
];
