//! The ModernBERT whose token states are pooled.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var, safetensors};
use candle_nn::{VarBuilder, VarMap};
use candle_transformers::models::modernbert::{Config, ModernBert};
use tokenizers::models::wordlevel::{WordLevel, WordLevelBuilder};
use tokenizers::pre_tokenizers::whitespace::Whitespace;
use tokenizers::{PaddingParams, Tokenizer, TruncationParams};

use crate::random::uniform;
use crate::text::Item;

/// Tokens of a text that are read at most.
const LENGTH: usize = 64;

/// Parameters and their names.
pub type Parameters = Vec<(String, Var)>;

/// A ModernBERT, the variables that train it, and its tokenizer.
pub struct Body {
    bert: ModernBert,
    tokenizer: Tokenizer,
    /// All parameters by name, in the order of the names.
    pub vars: Parameters,
    /// Length of a token's state.
    pub hidden: usize,
}

impl Body {
    /// The model in `folder`; without one, a small one of random weights drawn from `seed`, which knows the words of
    /// `texts`.
    pub fn load(folder: Option<&str>, texts: &[Item], seed: u64) -> Result<Self, Box<dyn Error>> {
        let (bert, vars, mut tokenizer, hidden) = match folder {
            Some(folder) => {
                let file = |name: &str| Path::new(folder).join(name);
                let reading = |name: &str, e: String| format!("{}: {e}", file(name).display());
                let text = std::fs::read_to_string(file("config.json"))
                    .map_err(|e| reading("config.json", e.to_string()))?;
                let config: Config = serde_json::from_str(&text)
                    .map_err(|e| reading("config.json", format!("no ModernBERT's ({e})")))?;
                let (bert, vars) = trained(&file("model.safetensors"), &config)
                    .map_err(|e| reading("model.safetensors", e.to_string()))?;
                let tokenizer = Tokenizer::from_file(file("tokenizer.json"))
                    .map_err(|e| reading("tokenizer.json", e.to_string()))?;
                (bert, vars, tokenizer, config.hidden_size)
            }
            None => {
                let tokenizer = words(texts)?;
                let config = small(tokenizer.get_vocab_size(true));
                let (bert, vars) = random(&config, seed)?;
                (bert, vars, tokenizer, config.hidden_size)
            }
        };
        let truncation = TruncationParams { max_length: LENGTH, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|e| e.to_string())?;
        if tokenizer.get_padding().is_none() {
            tokenizer.with_padding(Some(PaddingParams::default()));
        }
        Ok(Self { bert, tokenizer, vars, hidden })
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
        let lengths = mask.sum(1)?.to_vec1::<u32>()?;
        let states = self.bert.forward(&ids, &mask)?;
        Ok((states, lengths.into_iter().map(|length| length as usize).collect()))
    }
}

#[cfg(test)]
impl Body {
    /// Writes the random model as hubs lay one out, without the prefix of its parameters' names.
    pub fn save(&self, folder: &Path) -> Result<(), Box<dyn Error>> {
        let bare = |(name, var): &(String, Var)| {
            (name.trim_start_matches("model.").to_owned(), var.as_tensor().clone())
        };
        let tensors: HashMap<String, Tensor> = self.vars.iter().map(bare).collect();
        safetensors::save(&tensors, folder.join("model.safetensors"))?;
        self.tokenizer.save(folder.join("tokenizer.json"), false).map_err(|e| e.to_string())?;
        let of = small(self.tokenizer.get_vocab_size(true));
        let config = serde_json::json!({
            "vocab_size": of.vocab_size,
            "hidden_size": of.hidden_size,
            "num_hidden_layers": of.num_hidden_layers,
            "num_attention_heads": of.num_attention_heads,
            "intermediate_size": of.intermediate_size,
            "max_position_embeddings": of.max_position_embeddings,
            "layer_norm_eps": of.layer_norm_eps,
            "pad_token_id": of.pad_token_id,
            "global_attn_every_n_layers": of.global_attn_every_n_layers,
            "global_rope_theta": of.global_rope_theta,
            "local_attention": of.local_attention,
            "local_rope_theta": of.local_rope_theta,
        });
        Ok(std::fs::write(folder.join("config.json"), config.to_string())?)
    }
}

/// Two layers, one of which attends to neighbours alone.
fn small(vocab_size: usize) -> Config {
    Config {
        vocab_size,
        hidden_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        intermediate_size: 128,
        max_position_embeddings: LENGTH,
        layer_norm_eps: 1e-5,
        pad_token_id: 0,
        global_attn_every_n_layers: 2,
        global_rope_theta: 160_000.0,
        local_attention: 8,
        local_rope_theta: 10_000.0,
        classifier_config: None,
    }
}

/// The model of a file of weights, whose tensors become variables.
fn trained(path: &Path, config: &Config) -> Result<(ModernBert, Parameters), Box<dyn Error>> {
    let device = &Device::Cpu;
    let mut named: Vec<(String, Tensor)> = safetensors::load(path, device)?.into_iter().collect();
    named.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    // Checkpoints of the bare encoder lack the prefix that candle looks for.
    let prefix = if named.iter().any(|(name, _)| name.starts_with("model.")) { "" } else { "model." };
    let (mut vars, mut tensors) = (Vec::new(), HashMap::new());
    for (name, tensor) in named {
        let name = format!("{prefix}{name}");
        // What follows the encoder (a decoder, a classifier) is not used here.
        if name.starts_with("model.") {
            let var = Var::from_tensor(&tensor.to_dtype(DType::F32)?)?;
            tensors.insert(name.clone(), var.as_tensor().clone());
            vars.push((name, var));
        }
    }
    Ok((ModernBert::load(VarBuilder::from_tensors(tensors, DType::F32, device), config)?, vars))
}

/// Matrices uniform with BERT's standard deviation, the same in every run; norms as candle makes them.
fn random(config: &Config, seed: u64) -> Result<(ModernBert, Parameters), Box<dyn Error>> {
    let map = VarMap::new();
    let bert = ModernBert::load(VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu), config)?;
    let vars = map.data().lock().map_err(|e| e.to_string())?;
    let mut named: Vec<(&String, &Var)> = vars.iter().collect();
    named.sort_unstable_by_key(|(name, _)| *name);
    for (place, (_, var)) in (1..).zip(&named) {
        if var.rank() == 2 {
            var.set(&uniform(var.dims(), 0.02 * 3f64.sqrt(), seed * 1000 + place)?)?;
        }
    }
    Ok((bert, named.into_iter().map(|(name, var)| (name.clone(), var.clone())).collect()))
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
