//! A BERT from candle-transformers with a tuned head: GeM over its tokens, a linear layer, ArcFace.
//!
//! ```sh
//! cargo run --release                                    # a small BERT of random weights, built-in sentences
//! cargo run --release -- --model FOLDER --data FILE.csv  # weights of your own, a CSV with columns text,category
//! ```
//!
//! FOLDER is as model hubs lay it out: `config.json`, `tokenizer.json`, `model.safetensors`. The body stays as it is,
//! because candle 0.11 has no backward pass for the fused layer norm that its BERT uses; what is trained is GeM's power,
//! the linear layer and the class centres, each of the last two with an optimizer of its own.

mod body;
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
use text::Texts;

const DIM: usize = 32;
const BATCH: usize = 16;
const EPOCHS: u64 = 30;

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
    let body = Body::load(model.as_deref(), &texts.train)?;
    let (before, after) = tune(&body, &texts, 0)?;
    println!("Recall@1 of {} held-out texts: {before:.3} before, {after:.3} after", texts.test.len());
    Ok(())
}

/// Recall@1 of the held-out texts among the training texts, before and after training.
fn tune(body: &Body, texts: &Texts, seed: u64) -> Result<(f64, f64), Box<dyn Error>> {
    let device = &Device::Cpu;
    let weight = Var::from_tensor(&uniform(&[DIM, body.hidden], (body.hidden as f64).powf(-0.5), seed)?)?;
    let linear = Linear::new(weight.as_tensor().clone(), None);
    let power = Var::from_vec(vec![3f32], 1, device)?;
    // Small centres turn quickly: their length is a hidden learning rate.
    let centres = Var::from_tensor(&uniform(&[texts.classes, DIM], 0.01 * 3f64.sqrt(), seed + 1)?)?;
    let arcface = MarginOptions { scale: 16.0, ..MarginOptions::arcface() };
    let loss: Arc<dyn Loss> = Arc::new(MarginSoftmax::new(texts.classes, DIM, arcface)?);

    let rate = |lr| ParamsAdamW { lr, weight_decay: 0.0, ..ParamsAdamW::default() };
    let mut optimizer = AdamW::new(vec![weight, power.clone()], rate(1e-2))?;
    let mut loss_optimizer = AdamW::new(vec![centres.clone()], rate(1e-2))?;

    // Token embeddings are signed, so negative values keep their sign instead of being clamped.
    let gem = GemOptions { sign: Sign::Signed, ..GemOptions::default() }.build()?;
    let embed = |(states, lengths): &(Tensor, Vec<usize>)| -> Result<Tensor, Box<dyn Error>> {
        let valid = Valid::new(Mask::Lengths(lengths), lengths.len(), states.dim(1)?)?;
        Ok(linear.forward(&states.apply_op2(&power, GemOp::new(gem, valid))?)?)
    };
    // The body does not change, so each text goes through it once.
    let (train, test) = (body.states(&text::of(&texts.train))?, body.states(&text::of(&texts.test))?);
    let recall = || -> Result<f64, Box<dyn Error>> {
        text::recall_at_1(&embed(&test)?, &texts.test, &embed(&train)?, &texts.train)
    };

    let before = recall()?;
    let sampler = RandomSampler::new(texts.train.len(), BATCH, 0)?;
    for epoch in 0..EPOCHS {
        let mut sum = 0.0;
        let batches = sampler.batches(epoch);
        for batch in &batches {
            let rows = Tensor::from_iter(batch.iter().map(|&i| i as u32), device)?;
            let lengths = batch.iter().map(|&i| train.1[i]).collect();
            let labels = batch.iter().map(|&i| texts.train[i].class).collect();
            let embeddings = embed(&(train.0.index_select(&rows, 0)?, lengths))?;
            let value = embeddings.apply_op2(&centres, LossOp::new(loss.clone(), labels))?;
            let gradients = value.backward()?;
            optimizer.step(&gradients)?;
            loss_optimizer.step(&gradients)?;
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
    fn the_head_learns() -> Result<(), Box<dyn Error>> {
        let texts = Texts::load(None)?;
        let body = Body::load(None, &texts.train)?;
        // 32 texts are held out, so one of them is 0.03: three starts, and their mean.
        let (mut before, mut after) = (0.0, 0.0);
        for seed in [0, 10, 20] {
            let (first, last) = tune(&body, &texts, seed)?;
            println!("{first:.3} before, {last:.3} after");
            before += first / 3.0;
            after += last / 3.0;
        }
        assert!(after > before + 0.15, "{before} before, {after} after");
        Ok(())
    }
}
