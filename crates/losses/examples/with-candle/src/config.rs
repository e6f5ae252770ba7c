//! A ModernBERT's `config.json` in candle's words.

use std::error::Error;

use candle_transformers::models::modernbert::Config;
use serde_json::Value;

/// Reads the words of transformers 4, which are candle's, and those of transformers 5.
pub fn read(text: &str) -> Result<Config, Box<dyn Error>> {
    let mut config: Value = serde_json::from_str(text)?;
    for (name, known) in [("model_type", "modernbert"), ("hidden_activation", "gelu")] {
        let found = &config[name];
        if found != known && !(found.is_null() && name == "hidden_activation") {
            return Err(format!("{name} is {found}; this example takes \"{known}\"").into());
        }
    }
    for kind in ["full_attention", "sliding_attention"] {
        let found = &config["rope_parameters"][kind]["rope_type"];
        if !found.is_null() && found != "default" {
            return Err(format!("rope_type of {kind} is {found}; candle knows \"default\"").into());
        }
    }
    if let Some(kinds) = config["layer_types"].as_array() {
        let every = every(kinds)?;
        config["global_attn_every_n_layers"] = every.into();
    }
    for (name, newer) in [
        ("layer_norm_eps", "/norm_eps"),
        ("global_rope_theta", "/rope_parameters/full_attention/rope_theta"),
        ("local_rope_theta", "/rope_parameters/sliding_attention/rope_theta"),
    ] {
        if let Some(value) = config.pointer(newer).cloned() {
            config[name] = value;
        }
    }
    Ok(serde_json::from_value(config)?)
}

/// Of how many layers one attends to the whole text: to candle that is the first, and then regularly.
fn every(kinds: &[Value]) -> Result<usize, String> {
    let full: Vec<bool> = kinds.iter().map(|kind| kind == "full_attention").collect();
    let every = full.iter().skip(1).position(|&full| full).map_or(full.len(), |place| place + 1);
    match full.iter().enumerate().all(|(layer, &full)| full == (layer % every == 0)) {
        true if every > 0 => Ok(every),
        _ => Err("layer_types: candle knows a regular order that starts with \"full_attention\"".to_owned()),
    }
}
