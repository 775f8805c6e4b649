//! Weights spread over several files, as `split_torch_state_dict_into_shards` of huggingface_hub spreads them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::checkpoint::{FloatType, INDEX, Part, SINGLE};
use crate::tensors::TensorSpec;

/// A file of weights.
#[derive(Debug)]
pub(super) struct Shard {
    pub name: String,
    pub tensors: Vec<TensorSpec>,
}

/// Spreads tensors in their order over files of at most `most` bytes, but for a tensor that is larger alone.
pub(super) fn spread(tensors: Vec<TensorSpec>, dtype: FloatType, most: u64) -> Vec<Shard> {
    let files = files_of(tensors, |tensor| byte_len(tensor, dtype), most);
    let count = files.len();
    let name = |number| match count {
        1 => SINGLE.to_owned(),
        _ => Part { number, count }.shard(),
    };
    let files = files.into_iter().enumerate();
    files
        .map(|(index, tensors)| Shard {
            name: name(index + 1),
            tensors,
        })
        .collect()
}

/// Spreads things in their order over files of at most `most` bytes, but for one that is larger alone.
pub(super) fn files_of<T>(things: Vec<T>, bytes: impl Fn(&T) -> u64, most: u64) -> Vec<Vec<T>> {
    let mut files: Vec<Vec<T>> = Vec::new();
    let mut size = 0;
    for thing in things {
        let bytes = bytes(&thing);
        match files.last_mut() {
            Some(file) if size + bytes <= most => {
                size += bytes;
                file.push(thing);
            }
            _ => {
                size = bytes;
                files.push(vec![thing]);
            }
        }
    }
    files
}

/// Returns the name and the text of the index, which a single file has no need of.
pub(super) fn index(shards: &[Shard], dtype: FloatType) -> Option<(&'static str, Value)> {
    if shards.len() < 2 {
        return None;
    }
    let all = || shards.iter().flat_map(|shard| &shard.tensors);
    let places = shards.iter().flat_map(|shard| {
        let names = shard.tensors.iter().map(|tensor| tensor.name.as_str());
        names.map(|name| (name, shard.name.as_str()))
    });
    let map: BTreeMap<&str, &str> = places.collect();
    let parameters: u64 = all().map(elements).sum();
    let bytes: u64 = all().map(|tensor| byte_len(tensor, dtype)).sum();
    let index = json!({
        "metadata": { "total_parameters": parameters, "total_size": bytes },
        "weight_map": map,
    });
    Some((INDEX, index))
}

fn elements(tensor: &TensorSpec) -> u64 {
    tensor.shape.iter().map(|extent| *extent as u64).product()
}

fn byte_len(tensor: &TensorSpec, dtype: FloatType) -> u64 {
    elements(tensor) * dtype.dtype().bitsize() as u64 / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(sizes: &[usize]) -> Vec<TensorSpec> {
        let tensors = sizes.iter().enumerate();
        tensors
            .map(|(index, size)| TensorSpec {
                name: format!("t{index}"),
                shape: vec![*size],
                projection: false,
            })
            .collect()
    }

    #[test]
    fn files_are_filled_in_order_and_a_large_tensor_has_one_of_its_own() {
        let shards = spread(tensors(&[10, 20, 100, 5, 30, 6]), FloatType::Bf16, 80);
        let names: Vec<Vec<&str>> = shards
            .iter()
            .map(|shard| shard.tensors.iter().map(|t| t.name.as_str()).collect())
            .collect();
        assert_eq!(
            names,
            [vec!["t0", "t1"], vec!["t2"], vec!["t3", "t4"], vec!["t5"]]
        );
        assert_eq!(shards[3].name, "model-00004-of-00004.safetensors");
        let (name, index) = index(&shards, FloatType::Bf16).unwrap();
        assert_eq!(name, "model.safetensors.index.json");
        assert_eq!(index["metadata"]["total_size"], 342);
        assert_eq!(
            index["weight_map"]["t4"],
            "model-00003-of-00004.safetensors"
        );
    }

    #[test]
    fn what_fits_is_one_file_without_an_index() {
        let shards = spread(tensors(&[10, 20]), FloatType::F32, 120);
        assert_eq!(shards[0].name, "model.safetensors");
        assert!(shards.len() == 1 && index(&shards, FloatType::F32).is_none());
    }
}
