//! The BERT whose token states are pooled.

use std::error::Error;
use std::path::Path;

use candle_core::{DType, Device, Tensor, safetensors};
use candle_nn::{VarBuilder, VarMap};
use candle_transformers::models::bert::{BertModel, Config};
use tokenizers::models::wordlevel::{WordLevel, WordLevelBuilder};
use tokenizers::pre_tokenizers::whitespace::Whitespace;
use tokenizers::{PaddingParams, Tokenizer, TruncationParams};

use crate::random::uniform;
use crate::text::Item;

/// Tokens of a text that are read at most.
const LENGTH: usize = 64;

/// A BERT that is not trained, and its tokenizer.
pub struct Body {
    bert: BertModel,
    tokenizer: Tokenizer,
    pub hidden: usize,
}

impl Body {
    /// The model in `folder`; without one, a small BERT of seeded random weights that knows the words of `texts`.
    pub fn load(folder: Option<&str>, texts: &[Item]) -> Result<Self, Box<dyn Error>> {
        let device = &Device::Cpu;
        let (bert, mut tokenizer, hidden) = if let Some(folder) = folder {
            let file = |name: &str| Path::new(folder).join(name);
            let config: Config = serde_json::from_str(&std::fs::read_to_string(file("config.json"))?)?;
            let tensors = safetensors::load(file("model.safetensors"), device)?;
            let bert = BertModel::load(VarBuilder::from_tensors(tensors, DType::F32, device), &config)?;
            let tokenizer = Tokenizer::from_file(file("tokenizer.json")).map_err(|e| e.to_string())?;
            (bert, tokenizer, config.hidden_size)
        } else {
            let tokenizer = words(texts)?;
            let config = Config {
                vocab_size: tokenizer.get_vocab_size(true),
                hidden_size: 256,
                num_hidden_layers: 2,
                num_attention_heads: 4,
                intermediate_size: 256,
                ..Config::default()
            };
            (random(&config, device)?, tokenizer, config.hidden_size)
        };
        let truncation = TruncationParams { max_length: LENGTH, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|e| e.to_string())?;
        tokenizer.with_padding(Some(PaddingParams::default()));
        Ok(Self { bert, tokenizer, hidden })
    }

    /// The states of the texts' tokens, `[texts, tokens, hidden]`, and how many tokens of each text count.
    pub fn states(&self, texts: &[&str]) -> Result<(Tensor, Vec<usize>), Box<dyn Error>> {
        let encoded = self.tokenizer.encode_batch(texts.to_vec(), true).map_err(|e| e.to_string())?;
        let (batch, tokens) = (encoded.len(), encoded.first().map_or(0, |e| e.len()));
        let flat = |of: fn(&tokenizers::Encoding) -> &[u32]| {
            let values: Vec<u32> = encoded.iter().flat_map(|e| of(e).to_vec()).collect();
            Tensor::from_vec(values, (batch, tokens), &Device::Cpu)
        };
        let (ids, mask) = (flat(|e| e.get_ids())?, flat(|e| e.get_attention_mask())?);
        let states = self.bert.forward(&ids, &ids.zeros_like()?, Some(&mask))?.detach();
        let lengths = mask.sum(1)?.to_vec1::<u32>()?;
        Ok((states, lengths.into_iter().map(|length| length as usize).collect()))
    }
}

/// One token for each word of `texts`.
fn words(texts: &[Item]) -> Result<Tokenizer, Box<dyn Error>> {
    let mut vocabulary: Vec<&str> = texts.iter().flat_map(|item| item.text.split_whitespace()).collect();
    vocabulary.sort_unstable();
    vocabulary.dedup();
    let known = ["[PAD]", "[UNK]"].into_iter().chain(vocabulary).zip(0..);
    let model: WordLevel = WordLevelBuilder::new()
        .vocab(known.map(|(word, id)| (word.to_owned(), id)).collect())
        .unk_token("[UNK]".to_owned())
        .build()
        .map_err(|e| e.to_string())?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(Whitespace));
    Ok(tokenizer)
}

/// Matrices uniform with BERT's standard deviation, the same in every run; norms and biases as candle makes them.
fn random(config: &Config, device: &Device) -> Result<BertModel, Box<dyn Error>> {
    let map = VarMap::new();
    let bert = BertModel::load(VarBuilder::from_varmap(&map, DType::F32, device), config)?;
    let vars = map.data().lock().map_err(|e| e.to_string())?;
    let mut names: Vec<&String> = vars.keys().collect();
    names.sort_unstable();
    for (seed, name) in (1..).zip(names) {
        let var = &vars[name];
        if var.rank() == 2 {
            let half_width = config.initializer_range * 3f64.sqrt();
            var.set(&uniform(var.dims(), half_width, seed)?)?;
        }
    }
    Ok(bert)
}
