//! Labelled texts, and how well neighbours share a class.

use std::collections::BTreeMap;
use std::error::Error;

use candle_core::Tensor;

/// Sentences of eight intents, written for this example.
const BUILT_IN: &str = include_str!("../data/intents.csv");

/// A text and its class.
pub struct Item {
    pub text: String,
    pub class: u32,
}

/// Texts to train on and others to measure with.
pub struct Texts {
    pub train: Vec<Item>,
    pub test: Vec<Item>,
    pub classes: usize,
}

impl Texts {
    /// Reads a CSV with columns `text` and `category`, or the built-in one; every third text of a class is held out.
    pub fn load(path: Option<&str>) -> Result<Self, Box<dyn Error>> {
        let content = match path {
            Some(path) => std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?,
            None => BUILT_IN.to_owned(),
        };
        let mut names = BTreeMap::new();
        let mut texts = Self { train: Vec::new(), test: Vec::new(), classes: 0 };
        for row in csv::Reader::from_reader(content.as_bytes()).deserialize() {
            let (text, category): (String, String) = row?;
            let next = names.len() as u32;
            let (class, seen) = names.entry(category).or_insert((next, 0));
            *seen += 1;
            let to = if *seen % 3 == 0 { &mut texts.test } else { &mut texts.train };
            to.push(Item { text, class: *class });
        }
        texts.classes = names.len();
        Ok(texts)
    }
}

/// Share of `queries` whose most similar row of `gallery` has their class.
pub fn recall_at_1(
    queries: &Tensor,
    query_items: &[Item],
    gallery: &Tensor,
    gallery_items: &[Item],
) -> Result<f64, Box<dyn Error>> {
    let unit = |x: &Tensor| x.broadcast_div(&x.sqr()?.sum_keepdim(1)?.sqrt()?);
    let nearest = unit(queries)?.matmul(&unit(gallery)?.t()?)?.argmax(1)?.to_vec1::<u32>()?;
    let right = query_items
        .iter()
        .zip(nearest)
        .filter(|(item, near)| gallery_items[*near as usize].class == item.class)
        .count();
    Ok(right as f64 / query_items.len() as f64)
}
