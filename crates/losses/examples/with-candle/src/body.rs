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

use crate::config;
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
                let config = config::read(&text).map_err(|e| reading("config.json", e.to_string()))?;
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
    // Six of each layer, but that the first has no norm before its attention; the embeddings and two more norms. candle
    // would read what it knows and leave the rest.
    let (found, expected) = (vars.len(), 6 * config.num_hidden_layers + 2);
    if found != expected {
        return Err(format!(
            "{found} tensors where a ModernBERT of {} layers without biases has {expected}: \
             the file is of another model than config.json, or of one that candle does not know",
            config.num_hidden_layers
        )
        .into());
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What transformers wrote, with random weights (`make.py` beside it).
    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/modernbert");

    /// The largest difference from transformers' states, over the tokens that count.
    fn difference(folder: &str) -> Result<f32, Box<dyn Error>> {
        let text = std::fs::read_to_string(Path::new(FOLDER).join("expected.json"))?;
        let mut expected: serde_json::Value = serde_json::from_str(&text)?;
        let texts: Vec<String> = serde_json::from_value(expected["texts"].take())?;
        let counted: Vec<usize> = serde_json::from_value(expected["lengths"].take())?;
        let (items, tokens, hidden) = serde_json::from_value(expected["shape"].take())?;
        let theirs: Vec<f32> = serde_json::from_value(expected["states"].take())?;

        let body = Body::load(Some(folder), &[], 0)?;
        let (states, lengths) = body.states(&texts.iter().map(String::as_str).collect::<Vec<_>>())?;
        assert_eq!((states.dims3()?, &lengths), ((items, tokens, hidden), &counted));
        let ours = states.flatten_all()?.to_vec1::<f32>()?;
        let counts = |i: usize| i / hidden % tokens < lengths[i / hidden / tokens];
        let pairs = ours.iter().zip(&theirs).enumerate().filter(|(i, _)| counts(*i));
        Ok(pairs.map(|(_, (ours, theirs))| (ours - theirs).abs()).fold(0.0, f32::max))
    }

    #[test]
    fn a_checkpoint_of_transformers_gives_its_states() -> Result<(), Box<dyn Error>> {
        let difference = difference(FOLDER)?;
        assert!(difference < 1e-5, "{difference}");
        Ok(())
    }

    /// The older layout, which most models on hubs have: other words in the configuration, a prefix, a decoder.
    #[test]
    fn so_does_one_of_a_masked_language_model_of_transformers_4() -> Result<(), Box<dyn Error>> {
        let folder = std::env::temp_dir().join(format!("with-candle-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let old = |name: &str| Path::new(FOLDER).join(name);
        std::fs::copy(old("tokenizer.json"), folder.join("tokenizer.json"))?;
        let mut config: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(old("config.json"))?)?;
        let names = config.as_object_mut().ok_or("no object")?;
        names.retain(|name, _| name != "rope_parameters" && name != "layer_types");
        names.insert("global_attn_every_n_layers".to_owned(), 3.into());
        names.insert("global_rope_theta".to_owned(), 160_000.0.into());
        names.insert("local_rope_theta".to_owned(), 10_000.0.into());
        names.insert("layer_norm_eps".to_owned(), 1e-5.into());
        std::fs::write(folder.join("config.json"), config.to_string())?;
        let bare = safetensors::load(old("model.safetensors"), &Device::Cpu)?;
        let mut tensors: HashMap<String, Tensor> =
            bare.into_iter().map(|(name, tensor)| (format!("model.{name}"), tensor)).collect();
        tensors.insert("decoder.bias".to_owned(), Tensor::zeros(8, DType::F32, &Device::Cpu)?);
        let weights = folder.join("model.safetensors");
        safetensors::save(&tensors, &weights)?;
        let named = folder.to_str().ok_or("a folder that is no text")?;
        let difference = difference(named);

        // candle alone would take a missing norm for one that is not wanted.
        tensors.remove("model.layers.2.attn_norm.weight");
        safetensors::save(&tensors, &weights)?;
        let fewer = Body::load(Some(named), &[], 0).err().map(|e| e.to_string());
        std::fs::remove_file(folder.join("config.json"))?;
        let missing = Body::load(Some(named), &[], 0).err().map(|e| e.to_string());
        std::fs::remove_dir_all(&folder)?;
        assert!(difference? < 1e-5);
        assert!(fewer.as_ref().is_some_and(|e| e.contains("25 tensors where")), "{fewer:?}");
        assert!(missing.as_ref().is_some_and(|e| e.contains("config.json")), "{missing:?}");
        Ok(())
    }
}
