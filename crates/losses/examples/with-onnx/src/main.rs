//! ```sh
//! cargo run --release                                          # a random body and drawings, tuned.onnx
//! cargo run --release -- BODY.onnx ITEMS.npy LABELS.npy TUNED.onnx
//! ```
//!
//! BODY.onnx takes ITEMS.npy, `float32 [items, ...]`, to `[items, dim]`. LABELS.npy, `uint32 [items]`, has a class from 0
//! on for each. Every fifth class is kept out of training: retrieval among its items says what the head is worth.

use embedtune_losses::ndarray::{Array1, Array2, ArrayD, Axis};
use embedtune_retrieval::{EvaluateOptions, evaluate};
use with_onnx::{Error, Head, drawn, embed, with_head};

fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (body, items, labels, to) = match args.as_slice() {
        [] => {
            let (items, labels) = drawn::drawings(60, 20, 1);
            (drawn::random_body(7), items, labels, "tuned.onnx".into())
        }
        [body, items, labels, to] => {
            let labels: Array1<u32> = ndarray_npy::read_npy(labels)?;
            let items: ArrayD<f32> = ndarray_npy::read_npy(items)?;
            (std::fs::read(body)?, items, labels.to_vec(), to.clone())
        }
        _ => return Err("usage: with-onnx [BODY.onnx ITEMS.npy LABELS.npy TUNED.onnx]".into()),
    };
    if items.shape().first() != Some(&labels.len()) {
        return Err(format!("{} labels for items of shape {:?}", labels.len(), items.shape()).into());
    }
    let vectors = embed(&body, items.view())?;
    let (unseen, seen): (Vec<usize>, Vec<usize>) = (0..labels.len()).partition(|&item| labels[item] % 5 == 4);
    // Labels without gaps: each is one of the loss's centres.
    let of_seen: Vec<u32> = seen.iter().map(|&item| labels[item] / 5 * 4 + labels[item] % 5).collect();
    let head = Head::train(vectors.select(Axis(0), &seen).view(), &of_seen, 1)?;

    let tuned = with_head(&body, &head)?;
    let after = embed(&tuned, items.view())?;
    let of_unseen: Vec<u32> = unseen.iter().map(|&item| labels[item]).collect();
    let recall = |vectors: &Array2<f32>| -> Result<f64, Error> {
        let unseen = vectors.select(Axis(0), &unseen);
        Ok(evaluate(unseen.view(), &of_unseen, None, &EvaluateOptions::default())?.recall_at_1)
    };
    let (before, after) = (recall(&vectors)?, recall(&after)?);
    let body = args.first().map_or("a random body", String::as_str);
    println!(
        "Recall@1 of {} items of unseen classes: {before:.3} by {body}, {after:.3} with the head",
        unseen.len()
    );
    if after < before {
        println!("the head has learnt its own classes by heart: it needs more of them, or fewer epochs");
    }
    std::fs::write(&to, tuned)?;
    println!("{to} has both, its output is `{}`", with_onnx::OUTPUT);
    Ok(())
}
