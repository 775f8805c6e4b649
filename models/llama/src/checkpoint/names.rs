//! Names of files with weights.

/// The weights of a directory in one file.
pub(crate) const SINGLE: &str = "model.safetensors";
/// Says in which file of a directory each tensor is.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// What shards are called before their numbers.
const SHARD: &str = "model";
const SAFETENSORS: &str = ".safetensors";
const GGUF: &str = ".gguf";

/// The place of a file among those that weights were split into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// From 1.
    pub number: usize,
    /// How many there are.
    pub count: usize,
}

/// The name of a GGUF file, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GgufName<'a> {
    /// What stands before the part's number and the ending.
    pub stem: &'a str,
    /// Which part of a split file it is.
    pub part: Option<Part>,
}

impl Part {
    /// Takes the number of a part off the end of a name: `STEM-00001-of-00003`.
    fn of(name: &str) -> Option<(&str, Self)> {
        let (rest, count) = name.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let read = |digits: &str| {
            let plain = digits.len() >= 5 && digits.bytes().all(|digit| digit.is_ascii_digit());
            plain.then(|| digits.parse().ok())?
        };
        let (number, count) = (read(number)?, read(count)?);
        (1..=count)
            .contains(&number)
            .then_some((stem, Self { number, count }))
    }

    /// Returns the end of a part's name.
    fn ending(self) -> String {
        format!("-{:05}-of-{:05}", self.number, self.count)
    }

    /// Takes the name of a shard of a directory apart.
    pub(super) fn of_shard(name: &str) -> Option<Self> {
        let (stem, part) = Self::of(name.strip_suffix(SAFETENSORS)?)?;
        (stem == SHARD).then_some(part)
    }

    /// Returns the name of this shard of a directory.
    pub(crate) fn shard(self) -> String {
        format!("{SHARD}{}{SAFETENSORS}", self.ending())
    }

    /// Returns the name of this part of the GGUF file `stem`.
    #[cfg(feature = "gguf")]
    pub(super) fn gguf(self, stem: &str) -> String {
        format!("{stem}{}{GGUF}", self.ending())
    }
}

/// Returns whether a file of this name holds weights of a directory, or says where they are.
pub(super) fn are_weights(name: &str) -> bool {
    name == SINGLE || name == INDEX || Part::of_shard(name).is_some()
}

impl<'a> GgufName<'a> {
    /// Takes a name apart; `None` where it does not end like one.
    pub(super) fn of(name: &'a str) -> Option<Self> {
        let at = name.len().checked_sub(GGUF.len())?;
        let (stem, ending) = name.split_at_checked(at)?;
        if !ending.eq_ignore_ascii_case(GGUF) {
            return None;
        }
        Some(match Part::of(stem) {
            Some((stem, part)) => Self {
                stem,
                part: Some(part),
            },
            None => Self { stem, part: None },
        })
    }

    /// Returns whether it is not the name of what goes with a model: what turns images into embeddings, or the
    /// statistics that quantizing goes by.
    pub(super) fn is_a_model(&self) -> bool {
        let stem = self.stem.to_ascii_lowercase();
        !["mmproj", "imatrix"].iter().any(|word| stem.contains(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_by_their_numbers() {
        let part = |number, count| Some(Part { number, count });
        for (name, expected) in [
            ("a-00002-of-00003.gguf", part(2, 3)),
            ("a-00001-of-00001.GGUF", part(1, 1)),
            ("a-00001-of-123456.gguf", part(1, 123_456)),
            ("a.gguf", None),
            ("a-1-of-2.gguf", None),
            ("a-00003-of-00002.gguf", None),
            ("a-00000-of-00002.gguf", None),
            ("a-+0001-of-00002.gguf", None),
            ("a-00001-of-99999999999999999999.gguf", None),
        ] {
            assert_eq!(GgufName::of(name).unwrap().part, expected, "{name}");
        }
        for name in ["a.ggu", ".gguff", "gguf", "é.gguf.txt", ""] {
            assert_eq!(GgufName::of(name), None, "{name}");
        }
    }

    #[test]
    fn shards_are_named_as_they_are_read() {
        let name = "model-00002-of-00011.safetensors";
        assert_eq!(Part::of_shard(name).unwrap().shard(), name);
        assert_eq!(Part::of_shard("output-00001-of-00002.safetensors"), None);
        assert_eq!(Part::of_shard("model-00001-of-00002.bin"), None);
    }
}
