//! A ModernBERT from candle-transformers fine-tuned with GeM over its tokens, a linear layer and ArcFace.
//!
//! ```sh
//! cargo run --release                                    # a small ModernBERT of random weights, built-in sentences
//! cargo run --release -- --model FOLDER --data FILE.csv  # weights of your own, a CSV with columns text,category
//! ```
//!
//! FOLDER is as model hubs lay it out: `config.json`, `tokenizer.json`, `model.safetensors`. Everything is trained, each
//! part at its own rate: the body by one optimizer, GeM's power and the linear layer by another, the class centres by a
//! third. (The rotation of queries and keys has no backward pass in candle 0.11, so of the body all learns but where its
//! tokens look; candle's BERT could not be trained at all, because of its fused layer norm.)

mod body;
mod config;
mod random;
mod text;

use std::error::Error;
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use candle_nn::{AdamW, Linear, Module, Optimizer, ParamsAdamW};
use embedtune_losses::{Loss, MarginOptions, MarginSoftmax};
use embedtune_pooling::tokens::{Mask, Valid};
use embedtune_pooling::{GemOptions, Sign, keep_powers};
use embedtune_samplers::RandomSampler;
use with_candle::{GemOp, LossOp};

use body::Body;
use random::uniform;
use text::{Item, Texts};

const DIM: usize = 32;
const BATCH: usize = 16;
const EPOCHS: u64 = 20;
/// The body's learning rate: of random weights, and of trained ones, which would forget what they know.
const BODY_RATES: [f64; 2] = [1e-3, 2e-5];

fn main() -> Result<(), Box<dyn Error>> {
    let (mut model, mut data) = (None, None);
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let place = match flag.as_str() {
            "--model" => &mut model,
            "--data" => &mut data,
            other => return Err(format!("unknown flag {other}: there are --model and --data").into()),
        };
        *place = Some(args.next().ok_or_else(|| format!("{flag} needs a value"))?);
    }
    let texts = Texts::load(data.as_deref())?;
    let body = Body::load(model.as_deref(), &texts.train, 0)?;
    let rate = BODY_RATES[usize::from(model.is_some())];
    let (before, after) = tune(&body, rate, &texts, 0)?;
    println!("Recall@1 of {} held-out texts: {before:.3} before, {after:.3} after", texts.test.len());
    Ok(())
}

/// Recall@1 of the held-out texts among the training texts, before and after training.
fn tune(body: &Body, body_rate: f64, texts: &Texts, seed: u64) -> Result<(f64, f64), Box<dyn Error>> {
    let device = &Device::Cpu;
    let weight = Var::from_tensor(&uniform(&[DIM, body.hidden], (body.hidden as f64).powf(-0.5), seed)?)?;
    let linear = Linear::new(weight.as_tensor().clone(), None);
    let power = Var::from_vec(vec![3f32], 1, device)?;
    // Small centres turn quickly: their length is a hidden learning rate.
    let centres = Var::from_tensor(&uniform(&[texts.classes, DIM], 0.01 * 3f64.sqrt(), seed + 1)?)?;
    let arcface = MarginOptions { scale: 16.0, ..MarginOptions::arcface() };
    let loss: Arc<dyn Loss> = Arc::new(MarginSoftmax::new(texts.classes, DIM, arcface)?);

    let rate = |lr| ParamsAdamW { lr, weight_decay: 0.0, ..ParamsAdamW::default() };
    let mut optimizers = [
        AdamW::new(body.vars.iter().map(|(_, var)| var.clone()).collect(), rate(body_rate))?,
        AdamW::new(vec![weight, power.clone()], rate(1e-2))?,
        AdamW::new(vec![centres.clone()], rate(1e-2))?,
    ];

    // Token states are signed, so negative values keep their sign instead of being clamped.
    let gem = GemOptions { sign: Sign::Signed, ..GemOptions::default() }.build()?;
    let embed = |items: &[&Item]| -> Result<Tensor, Box<dyn Error>> {
        let texts: Vec<&str> = items.iter().map(|item| item.text.as_str()).collect();
        let (states, lengths) = body.states(&texts)?;
        let valid = Valid::new(Mask::Lengths(&lengths), lengths.len(), states.dim(1)?)?;
        Ok(linear.forward(&states.contiguous()?.apply_op2(&power, GemOp::new(gem, valid))?)?)
    };
    let vectors = |items: &[Item]| -> Result<Tensor, Box<dyn Error>> {
        let items: Vec<&Item> = items.iter().collect();
        let parts = items.chunks(BATCH).map(|part| Ok(embed(part)?.detach()));
        Ok(Tensor::cat(&parts.collect::<Result<Vec<_>, Box<dyn Error>>>()?, 0)?)
    };
    let recall = || -> Result<f64, Box<dyn Error>> {
        text::recall_at_1(&vectors(&texts.test)?, &texts.test, &vectors(&texts.train)?, &texts.train)
    };

    let before = recall()?;
    let sampler = RandomSampler::new(texts.train.len(), BATCH, 0)?;
    for epoch in 0..EPOCHS {
        let mut sum = 0.0;
        let batches = sampler.batches(epoch);
        for batch in &batches {
            let items: Vec<&Item> = batch.iter().map(|&i| &texts.train[i]).collect();
            let labels = items.iter().map(|item| item.class).collect();
            let value = embed(&items)?.apply_op2(&centres, LossOp::new(loss.clone(), labels))?;
            let gradients = value.backward()?;
            for optimizer in &mut optimizers {
                optimizer.step(&gradients)?;
            }
            let mut powers = power.to_vec1()?;
            keep_powers(&mut powers);
            power.set(&Tensor::from_vec(powers, 1, device)?)?;
            sum += f64::from(value.to_scalar::<f32>()?);
        }
        if (epoch + 1) % 10 == 0 {
            let p = power.to_vec1::<f32>()?[0];
            println!("epoch {:2}: loss {:.3}, p {p:.2}", epoch + 1, sum / batches.len() as f64);
        }
    }
    Ok((before, recall()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_learns_and_its_body_with_it() -> Result<(), Box<dyn Error>> {
        let texts = Texts::load(None)?;
        // 32 texts are held out, so one of them is 0.03: two starts, and their mean.
        let (mut before, mut after) = (0.0, 0.0);
        for seed in [0, 10] {
            let body = Body::load(None, &texts.train, seed)?;
            let start = body.vars.iter().map(|(_, var)| var.copy()).collect::<Result<Vec<_>, _>>()?;
            let (first, last) = tune(&body, BODY_RATES[0], &texts, seed)?;
            println!("{first:.3} before, {last:.3} after");
            before += first / 2.0;
            after += last / 2.0;
            for ((name, var), start) in body.vars.iter().zip(&start) {
                let moved = (var.as_tensor() - start)?.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(moved > 1e-3, "{name} stayed");
            }
        }
        assert!(after > before + 0.15, "{before} before, {after} after");
        Ok(())
    }
}
