//! Which layers are adapted, and what of that differs from layer to layer.

use std::fs;

use serde_json::{Value, json};

use crate::support::{self, Place, Run};

struct Adapted {
    place: Place,
}

impl Adapted {
    fn train(&self, name: &str, more: &[&str]) -> Run {
        let (model, rows) = (self.place.model("tiny_llama_nf4"), self.place.rows(4));
        let mut command = support::train(&model, &rows, &self.place.path(name));
        command.args(["--seq-len", "64", "--rank", "4", "--steps", "1"]);
        support::run(command.args(more))
    }

    fn config(&self, name: &str) -> Value {
        let file = self.place.path(name).join("adapter_config.json");
        serde_json::from_slice(&fs::read(file).expect("it is there")).expect("JSON")
    }

    /// The shapes of the factors A, by their layers.
    fn ranks(&self, name: &str) -> Vec<(String, u64)> {
        let bytes = self.place.adapter(name);
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
        let tensors = header.as_object().expect("an object").iter();
        let factors = tensors.filter_map(|(tensor, info)| {
            let path = tensor.strip_suffix(".lora_A.weight")?;
            let path = path.strip_prefix("base_model.model.model.layers.")?;
            Some((path.to_owned(), info["shape"][0].as_u64()?))
        });
        factors.collect()
    }
}

#[test]
fn ranks_alphas_blocks_and_layers_left_out_are_written_as_peft_writes_them() {
    let adapted = Adapted {
        place: Place::new(),
    };
    let flags = [
        "--target",
        "q_proj,v_proj,down_proj",
        "--exclude",
        "v_proj",
        "--layers",
        "0-1",
        "--rank-pattern",
        r"layers\.1\.mlp\.down_proj=8",
        "--rank-pattern",
        "down_proj=2",
        "--alpha-pattern",
        "q_proj=3.5",
    ];
    adapted.train("run", &flags).ok();
    let ranks = [
        ("0.mlp.down_proj", 2),
        ("0.self_attn.q_proj", 4),
        ("1.mlp.down_proj", 8),
        ("1.self_attn.q_proj", 4),
    ];
    let ranks = ranks.map(|(path, rank)| (path.to_owned(), rank));
    assert_eq!(adapted.ranks("run"), ranks);
    let config = adapted.config("run");
    for (key, value) in [
        ("exclude_modules", json!(["v_proj"])),
        ("layers_to_transform", json!([0, 1])),
        ("alpha_pattern", json!({ "q_proj": 3.5 })),
        (
            "rank_pattern",
            json!({ r"layers\.1\.mlp\.down_proj": 8, "down_proj": 2 }),
        ),
        ("target_modules", json!(["q_proj", "v_proj", "down_proj"])),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
    // All layers by their names, which peft narrows down to blocks.
    adapted.train("all", &["--layers", "2"]).ok();
    let layers = adapted.ranks("all");
    assert!(layers.len() == 7 && layers.iter().all(|(path, _)| path.starts_with("2.")));
    assert!(adapted.config("all")["target_modules"].is_array());
}

#[test]
fn layers_that_are_not_there_are_refused() {
    let adapted = Adapted {
        place: Place::new(),
    };
    for (flags, needles) in [
        (
            ["--target", "q_proj,embed_tokens"],
            ["--target embed_tokens", "--train-tokens"],
        ),
        (["--layers", "3"], ["--layers 3", "3 blocks"]),
        (["--layers", "2-1"], ["--layers", "blocks"]),
        (["--exclude", "w_proj"], ["--exclude", "w_proj"]),
        (["--rank-pattern", "w_proj=4"], ["w_proj", "no layer"]),
        (
            ["--rank-pattern", "q_proj"],
            ["--rank-pattern", "v_proj=64"],
        ),
        (["--rank-pattern", "q_proj=0"], ["rank_pattern", "0"]),
        (["--alpha-pattern", "q_proj=0"], ["alpha_pattern", "0"]),
    ] {
        adapted.train("out", &flags).refused(&needles);
        assert!(adapted.place.listing("out").is_empty());
    }
}
