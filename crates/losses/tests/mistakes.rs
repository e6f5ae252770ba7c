//! What one easily gets wrong, and what the message has to say: the field, the value or row, and what to do.

use embedtune_losses::miner::mine;
use embedtune_losses::ndarray::{Array2, array};
use embedtune_losses::*;

/// Fails unless `result` is an error whose message has all `parts`.
#[track_caller]
fn says<T>(result: Result<T>, parts: &[&str]) {
    let Err(error) = result else { panic!("accepted, but {parts:?} is wrong") };
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "`{message}` lacks `{part}`");
    }
}

const LABELS: [u32; 4] = [0, 1, 2, 0];

fn five() -> MarginSoftmax {
    MarginSoftmax::new(3, 5, MarginOptions::arcface()).unwrap()
}

fn arc(angle: Angle) -> MarginOptions {
    let margin = Margin::Arc { angle, edge: Edge::Jump, gradient: MarginGradient::Exact };
    MarginOptions { margin, ..MarginOptions::arcface() }
}

#[test]
fn shapes() {
    let [x, w] = [4, 3].map(|rows| Array2::<f32>::ones((rows, 5)));
    let (x, w) = (x.view(), w.view());
    let loss = five();
    says(loss.value_and_grad(x, w, &LABELS[..3]), &["labels has shape [3]", "[4], one for each row"]);
    says(loss.value_and_grad(x, w.t(), &LABELS), &["class centres has shape [5, 3]", "[3, 5]: transpose it"]);
    says(loss.value_and_grad(x.t(), w, &LABELS), &["embeddings has shape [5, 4]", "[n, 5]: transpose it"]);
    says(loss.evaluate(Input::new(x, &LABELS)), &["class centres in `Input::weights`", "with_weight_slice"]);
    says(
        loss.value_and_grad(x, x, &LABELS),
        &["class centres has shape [4, 5]", "[3, 5]: one row for each class"],
    );
    let narrow = Array2::ones((4, 2));
    says(
        loss.value_and_grad(narrow.view(), w, &LABELS),
        &["embeddings has shape [4, 2]", "[n, 5]: as many columns"],
    );
    says(
        Input::from_slices(&[0.0; 12], 4, &[0, 1]),
        &["embeddings", "[8]: 2 rows of 4 values", "each label"],
    );
    says(
        Input::from_slices(&[0.0; 4], 2, &[0, 1]).and_then(|input| input.with_weight_slice(&[0.0; 5])),
        &["class centres has shape [5]", "rows of 2 values"],
    );
    let mut other = Array2::zeros((2, 3));
    let grads = GradsMut { embeddings: Some(other.view_mut()), ..GradsMut::default() };
    let input = Input::new(x, &LABELS).with_weights(w);
    says(
        loss.forward_backward(input, grads, &mut Workspace::default()),
        &["embeddings' gradient has shape [2, 3]", "[4, 5]"],
    );
    let grads = GradsMut { upstream: f32::NAN, ..GradsMut::default() };
    says(loss.forward_backward(input, grads, &mut Workspace::default()), &["upstream = NaN", "finite"]);
}

#[test]
fn weights_of_rows_and_classes() {
    let [x, w] = [4, 3].map(|rows| Array2::<f32>::ones((rows, 5)));
    let input = Input::new(x.view(), &LABELS).with_weights(w.view());
    type Weights<'a> = Option<&'a [f32]>;
    fn with<'a>(input: Input<'a>, sample_weights: Weights<'a>, class_weights: Weights<'a>) -> Result<Output> {
        five().evaluate(Input { sample_weights, class_weights, ..input })
    }
    says(with(input, Some(&[1.0, -2.0, 1.0, 1.0]), None), &["sample_weights = -2 in row 1", "use 0"]);
    says(with(input, Some(&[1.0, f32::NAN, 1.0, 1.0]), None), &["sample_weights holds NaN in row 1"]);
    says(with(input, None, Some(&[1.0, 1.0])), &["class_weights has shape [2]", "label 2 in row 2"]);
}

#[test]
fn margins_in_the_wrong_unit() {
    let new = |options| MarginSoftmax::new(3, 5, options);
    says(new(arc(Angle::radians(28.6))), &["28.6rad (1638.6593deg)", "below 180deg; 28.6deg"]);
    says(new(arc(Angle::degrees(0.5))), &["0.0087rad (0.5deg)", "if radians were meant"]);
    assert!(new(arc(Angle::degrees(0.0))).is_ok() && new(arc(Angle::degrees(1.0))).is_ok());
    let cosine = MarginOptions { margin: Margin::Cos { cosine: 28.6 }, ..MarginOptions::cosface() };
    says(new(cosine), &["margin = 28.6", "0.35 is usual"]);
    says(MarginSoftmax::new(1, 5, MarginOptions::arcface()), &["classes = 1", "at least 2"]);

    says(TripletMargin::builder().margin(20.0).build(), &["margin = 20", "at most 2", "0.05 to 0.5"]);
    let squared = TripletMargin::builder().distance(Distance::SquaredL2);
    assert!(squared.clone().margin(4.0).build().is_ok() && squared.margin(4.1).build().is_err());
    assert!(TripletMargin::builder().margin(20.0).normalize(false).build().is_ok());
    let x = Array2::<f32>::ones((4, 5));
    for (margin, part) in [(f64::NAN, "NaN"), (-1.0, "-1"), (20.0, "at most 2 apart")] {
        let miner = Miner::TripletMargin { margin, kind: TripletKind::Semihard };
        says(mine(&miner, Input::new(x.view(), &LABELS)), &["miner margin", part]);
        says(TripletMargin::builder().miner(miner).build(), &["miner margin", part]);
    }
}

#[test]
fn what_a_loss_does_not_take() {
    let [x, w] = [4, 3].map(|rows| Array2::<f32>::ones((rows, 5)));
    let triplet = TripletMargin::builder().margin(0.2).build().unwrap();
    let input = Input::new(x.view(), &LABELS);
    says(
        triplet.evaluate(input.with_weights(w.view())),
        &["class centres has shape [3, 5]", "leave Input::weights out"],
    );
    let few = Reference { embeddings: x.view(), labels: &LABELS[..2], same_item: None };
    says(
        triplet.evaluate(Input { reference: Some(few), ..input }),
        &["reference labels has shape [2]", "[4], one for each row of the reference"],
    );
    let miner = Some((MinerKind::BatchHardMiner, &MinerOptions::default()));
    says(
        build(LossKind::ArcFaceLoss, &LossOptions::default(), miner, 3, 5).map(|_| ()),
        &["miner = BatchHardMiner", "leave the miner out"],
    );
    let memory = CrossBatchMemory::new(8, 5).unwrap();
    says(
        triplet.evaluate(Input { reference: Some(memory.reference()), ..input }),
        &["same_item has shape [0]", "[4], one for each row", "push this one before, or take `past`"],
    );
    says(CrossBatchMemory::new(8, 0), &["dim = 0", "at least 1"]);
    says(
        CrossBatchMemory::new(8, 5).and_then(|mut m| m.push(x.view(), &[0])),
        &["labels has shape [1]", "[4]"],
    );
}

/// A forecast of what no memory could hold is no overflow.
#[test]
fn sizes_beyond_any_memory() {
    for size in [1 << 40, usize::MAX] {
        for miner in [Miner::All, Miner::BatchHard, Miner::triplet_margin(TripletKind::Semihard)] {
            let loss = TripletMargin::builder().swap(miner == Miner::All).miner(miner).build().unwrap();
            for [batch, reference, dim] in [[size, 0, 8], [8, size, 8], [8, 8, size], [size; 3]] {
                assert!(loss.workspace_bytes(batch, reference, dim) > 1 << 36);
            }
        }
        for [batch, dim] in [[size, 8], [8, size], [size, size]] {
            assert!(five().workspace_bytes(batch, 0, dim) > 1 << 30);
        }
    }
    says(MarginSoftmax::new(1 << 62, 3, MarginOptions::arcface()), &["fewer classes"]);
}

/// No error, but said in the result: a batch that teaches nothing.
#[test]
fn batches_that_teach_nothing() {
    let x = array![[1.0f32, 0.0], [0.5, 0.5], [0.0, 0.0]];
    let triplet = TripletMargin::builder().margin(0.2).build().unwrap();
    for labels in [[0, 0, 0], [0, 1, 2]] {
        let out = triplet.value_and_grad(x.view(), &labels).unwrap();
        assert!(out.stats.zero_signal && out.d_embeddings.iter().all(|&g| g == 0.0));
    }
    let empty = triplet.value_and_grad(Array2::zeros((0, 2)).view(), &[]).unwrap();
    assert!(empty.stats.zero_signal && empty.d_embeddings.dim() == (0, 2));
}
