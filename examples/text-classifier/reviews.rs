//! Made-up reviews of films, and batches of them.

use burn::data::dataloader::batcher::Batcher;
use burn::tensor::{Device, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

use crate::model::Batch;

/// Six words for what is talked of, six of praise, six of blame, and two ends. The second marks irony.
const WORDS: [&str; 20] = [
    "film", "plot", "music", "cast", "ending", "dialogue", "good", "great", "lovely", "fresh",
    "bright", "moving", "bad", "dull", "weak", "stale", "awful", "tiresome", ".", "/s",
];
/// Ids that there are; 0 is that of any other word.
pub const VOCABULARY: usize = WORDS.len() + 1;
/// Words of a review.
const LENGTH: usize = 8;

/// A review, and whether its author liked the film.
#[derive(Clone, Debug)]
pub struct Review {
    pub text: String,
    pub liked: bool,
}

/// Returns `count` reviews, the same for the same seed. With `irony`, every other one ends in "/s" and is meant the other way
/// round.
pub fn reviews(count: usize, irony: bool, seed: u64) -> Vec<Review> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut review = |ironic: bool| {
        let liked = rng.random_bool(0.5);
        let (meant, other) = match liked != ironic {
            true => (&WORDS[6..12], &WORDS[12..18]),
            false => (&WORDS[12..18], &WORDS[6..12]),
        };
        let mut words: Vec<&str> = Vec::new();
        words.extend(meant.sample(&mut rng, 3));
        words.extend(other.sample(&mut rng, 1));
        words.extend(WORDS[..6].sample(&mut rng, LENGTH - 5));
        words.shuffle(&mut rng);
        words.push(WORDS[18 + usize::from(ironic)]);
        Review {
            text: words.join(" "),
            liked,
        }
    };
    (0..count)
        .map(|index| review(irony && index % 2 == 1))
        .collect()
}

/// Makes batches of reviews.
#[derive(Clone)]
pub struct ReviewBatcher;

impl Batcher<Review, Batch> for ReviewBatcher {
    fn batch(&self, reviews: Vec<Review>, device: &Device) -> Batch {
        let id = |word| WORDS.iter().position(|known| *known == word);
        let ids: Vec<i64> = reviews
            .iter()
            .flat_map(|review| review.text.split(' '))
            .map(|word| id(word).map_or(0, |place| place as i64 + 1))
            .collect();
        let classes: Vec<i64> = reviews.iter().map(|review| review.liked.into()).collect();
        let rows = reviews.len();
        Batch {
            words: Tensor::from_data(TensorData::new(ids, [rows, LENGTH]), device),
            classes: Tensor::from_data(TensorData::new(classes, [rows]), device),
        }
    }
}
