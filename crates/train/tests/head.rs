//! The loss head on a small loss with centres: the squared distance to one's own centre.

use embedtune_core::Grad;
use embedtune_losses::{
    self as losses, GradsMut, Input, Loss, LossKind, LossOptions, Sampling, Stats, Workspace, Write,
};
use embedtune_train::head::{CentreInit, HostHead, LossHead, Update, draw_centres};
use embedtune_train::optim::{self, Optimizer, OptimizerKind, OptimizerOptions, Param};
use ndarray::{Array2, ArrayView2, array};

/// `mean_i |x_i - c_(y_i)|^2 / 2`, with or without centres to learn (without, they are zero).
struct Pull {
    shape: Option<[usize; 2]>,
}

impl Loss for Pull {
    fn name(&self) -> &'static str {
        "Pull"
    }

    fn weight_shape(&self) -> Option<[usize; 2]> {
        self.shape
    }

    fn sampling(&self) -> Sampling {
        Sampling::Random
    }

    fn workspace_bytes(&self, _: usize, _: usize, _: usize) -> usize {
        0
    }

    fn forward_backward(
        &self,
        input: Input<'_>,
        grads: GradsMut<'_>,
        _: &mut Workspace,
    ) -> embedtune_losses::Result<Stats> {
        let scale = 1.0 / input.labels.len() as f32;
        let mut difference = input.embeddings.to_owned();
        if let Some(weights) = input.weights {
            for (mut row, &label) in difference.rows_mut().into_iter().zip(input.labels) {
                row -= &weights.row(label as usize);
            }
        }
        let value = f64::from(difference.iter().map(|d| d * d).sum::<f32>() * scale / 2.0);
        difference *= scale;
        if let Some(mut d_weights) = grads.weights {
            if grads.write == Write::Overwrite {
                d_weights.fill(0.0);
            }
            for (row, &label) in difference.rows().into_iter().zip(input.labels) {
                let mut to = d_weights.row_mut(label as usize);
                to -= &row;
            }
        }
        if let Some(mut dx) = grads.embeddings {
            if grads.write == Write::Overwrite {
                dx.fill(0.0);
            }
            dx += &difference;
        }
        let mut stats = Stats::default();
        stats.value = value;
        Ok(stats)
    }
}

const SHAPE: [usize; 2] = [3, 2];
const INIT: CentreInit = CentreInit::Normal { std: 0.5 };

fn adam() -> Option<Box<dyn Optimizer>> {
    Some(optim::build(OptimizerKind::Adam, &OptimizerOptions::default(), 0.1).unwrap())
}

fn head() -> HostHead {
    HostHead::new(Box::new(Pull { shape: Some(SHAPE) }), adam(), INIT, 11).unwrap()
}

fn batch(t: u32) -> (Array2<f32>, Vec<u32>) {
    let x = Array2::from_shape_fn((4, 2), |(i, j)| (t as f32 + i as f32 * 1.3 + j as f32 * 0.7).sin());
    (x, vec![0, 2, 2, 0])
}

fn weights(head: &HostHead) -> Array2<f32> {
    head.weights().unwrap().unwrap().into_owned()
}

fn close(a: &Array2<f32>, b: &Array2<f32>) {
    approx::assert_abs_diff_eq!(a.as_slice().unwrap(), b.as_slice().unwrap(), epsilon = 1e-5);
}

#[test]
fn construction_matches_the_loss_and_the_optimizer() {
    let error =
        HostHead::new(Box::new(Pull { shape: Some(SHAPE) }), None, INIT, 0).err().unwrap().to_string();
    assert!(error.contains("Pull has class centres"), "{error}");
    let error = HostHead::new(Box::new(Pull { shape: None }), adam(), INIT, 0).err().unwrap().to_string();
    assert!(error.contains("loss_optimizer = Adam") && error.contains("remove it"), "{error}");
    let bad = CentreInit::Normal { std: -1.0 };
    assert!(HostHead::new(Box::new(Pull { shape: Some(SHAPE) }), adam(), bad, 0).is_err());
    assert_eq!(weights(&head()), draw_centres(INIT, SHAPE, 11).unwrap());
}

#[test]
fn a_loss_without_centres_has_nothing_to_learn() {
    let mut head = HostHead::new(Box::new(Pull { shape: None }), None, INIT, 0).unwrap();
    let mut dx = Array2::from_elem((4, 2), f32::NAN);
    let (x, labels) = batch(0);
    head.step(Input::new(x.view(), &labels), Some(dx.view_mut()), Update::Apply).unwrap();
    assert_eq!(dx, &x / 4.0);
    head.apply(1.0).unwrap();
    head.set_learning_rate(0.5).unwrap();
    assert_eq!((head.weights().unwrap(), head.learning_rate(), head.grad_norm().unwrap()), (None, None, 0.0));
    assert_eq!(head.state().unwrap(), Default::default());
    head.load_state(&Default::default()).unwrap();
    let error = head.load_state(&self::head().state().unwrap()).unwrap_err().to_string();
    assert!(error.contains("`centres`, but Pull has nothing to learn"), "{error}");
}

#[test]
fn a_step_is_the_loss_and_then_the_optimizer() {
    let (mut head, mut optimizer) = (head(), adam().unwrap());
    let mut centres = weights(&head).into_dyn().into_shared();
    for t in 0..5 {
        let (x, labels) = batch(t);
        let matrix = centres.to_owned().into_dimensionality().unwrap();
        let expected = Pull { shape: Some(SHAPE) }
            .evaluate(Input::new(x.view(), &labels).with_weights(ArrayView2::from(&matrix)))
            .unwrap();
        let mut dx = Array2::zeros((4, 2));
        let stats = head.step(Input::new(x.view(), &labels), Some(dx.view_mut()), Update::Apply).unwrap();
        let grad = expected.d_weights.map(|g| Grad::Dense(g.into_dyn()));
        optimizer.step(&mut [Param { name: "centres", value: &mut centres, grad }], None).unwrap();
        assert_eq!(stats, expected.stats);
        assert_eq!(dx, expected.d_embeddings);
        assert_eq!(weights(&head).into_dyn(), centres);
    }
}

#[test]
fn centres_of_a_margin_loss_learn_the_classes() {
    let loss = losses::build(LossKind::ArcFaceLoss, &LossOptions::default(), None, 3, 8).unwrap();
    let mut head = HostHead::new(loss, adam(), CentreInit::Normal { std: 0.01 }, 5).unwrap();
    let labels: Vec<u32> = (0..30).map(|i| i % 3).collect();
    // Three directions, each with its own wobble.
    let x = Array2::from_shape_fn((30, 8), |(i, j)| {
        f32::from(u8::from(j / 3 == i % 3)) + 0.2 * ((i * 8 + j) as f32).sin()
    });
    let mut step = |update| head.step(Input::new(x.view(), &labels), None, update).unwrap();
    let before = step(Update::None);
    for _ in 0..60 {
        step(Update::Apply);
    }
    let after = step(Update::None);
    assert_eq!(after.accuracy, Some(1.0), "{after:?}");
    assert!(after.value < 0.1 * before.value, "{} to {}", before.value, after.value);
}

#[test]
fn no_update_leaves_everything() {
    let mut head = head();
    let (x, labels) = batch(3);
    let before = head.state().unwrap();
    let mut dx = Array2::zeros((4, 2));
    head.step(Input::new(x.view(), &labels), Some(dx.view_mut()), Update::None).unwrap();
    assert_eq!(head.state().unwrap(), before);
    assert_ne!(dx, Array2::<f32>::zeros((4, 2)));
}

#[test]
fn accumulated_halves_equal_the_whole_batch() {
    let (mut whole, mut halves) = (head(), head());
    let (x, labels) = batch(5);
    let mut dx = Array2::zeros((4, 2));
    whole.step(Input::new(x.view(), &labels), Some(dx.view_mut()), Update::Accumulate).unwrap();
    assert_eq!(weights(&whole), weights(&halves));
    for rows in [0..2, 2..4] {
        let mut dx_half = Array2::from_elem((2, 2), 9.0);
        let input = Input::new(x.slice(ndarray::s![rows.clone(), ..]), &labels[rows.clone()]);
        halves.step(input, Some(dx_half.view_mut()), Update::Accumulate).unwrap();
        // Never added to what was there, whichever half.
        let expected = &dx.slice(ndarray::s![rows, ..]) * 2.0;
        close(&dx_half, &expected);
        assert!(halves.state().unwrap().tensors.contains_key("accumulated_gradient"));
    }
    approx::assert_abs_diff_eq!(
        halves.grad_norm().unwrap() / 2.0,
        whole.grad_norm().unwrap(),
        epsilon = 1e-6
    );
    whole.apply(1.0).unwrap();
    halves.apply(0.5).unwrap();
    close(&weights(&whole), &weights(&halves));
    assert_eq!(whole.grad_norm().unwrap(), 0.0);
    let after = weights(&whole);
    whole.apply(1.0).unwrap();
    assert_eq!(weights(&whole), after, "nothing is left to apply");
    // Apply after Accumulate moves by the sum of both.
    let sgd = |update: [Update; 2]| {
        let sgd = optim::build(OptimizerKind::Sgd, &OptimizerOptions::default(), 0.5).unwrap();
        let mut head = HostHead::new(Box::new(Pull { shape: Some(SHAPE) }), Some(sgd), INIT, 1).unwrap();
        for update in update {
            head.step(Input::new(x.view(), &labels), None, update).unwrap();
        }
        head.apply(1.0).unwrap();
        weights(&head)
    };
    assert_eq!(sgd([Update::Accumulate, Update::Apply]), sgd([Update::Accumulate, Update::Accumulate]));
}

#[test]
fn a_loss_that_is_not_finite_moves_nothing() {
    let mut head = head();
    let before = weights(&head);
    let (mut x, labels) = batch(0);
    head.step(Input::new(x.view(), &labels), None, Update::Accumulate).unwrap();
    x[[1, 1]] = f32::NAN;
    let stats = head.step(Input::new(x.view(), &labels), None, Update::Apply).unwrap();
    assert!(stats.value.is_nan());
    assert_eq!(weights(&head), before);
    head.apply(1.0).unwrap();
    assert_eq!(weights(&head), before);
}

#[test]
fn a_resumed_head_continues_bit_for_bit() {
    let mut first = head();
    let steps = |head: &mut HostHead, range: std::ops::Range<u32>| {
        for t in range {
            let (x, labels) = batch(t);
            let update = if t % 2 == 0 { Update::Accumulate } else { Update::Apply };
            head.step(Input::new(x.view(), &labels), None, update).unwrap();
        }
    };
    steps(&mut first, 0..5);
    let state = first.state().unwrap();
    let mut keys: Vec<_> = state.tensors.keys().chain(state.counters.keys()).map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "accumulated_gradient",
            "centres",
            "optimizer.centres.exp_avg",
            "optimizer.centres.exp_avg_sq",
            "optimizer.centres.step"
        ]
    );
    let mut second = HostHead::new(Box::new(Pull { shape: Some(SHAPE) }), adam(), INIT, 99).unwrap();
    second.load_state(&state).unwrap();
    steps(&mut first, 5..9);
    steps(&mut second, 5..9);
    assert_eq!(first.state().unwrap(), second.state().unwrap());
}

#[test]
fn states_that_do_not_fit_are_refused_and_change_nothing() {
    let mut trained = head();
    let (x, labels) = batch(0);
    trained.step(Input::new(x.view(), &labels), None, Update::Apply).unwrap();
    let mut other = trained.state().unwrap();
    other.tensors.insert("centres".to_owned(), Array2::zeros((4, 2)).into_dyn());
    let mut missing = trained.state().unwrap();
    missing.tensors.remove("centres");
    let mut optimizer = trained.state().unwrap();
    optimizer.tensors.remove("optimizer.centres.exp_avg");
    for (state, part) in [
        (other, "shape [4, 2], but Pull has centres of shape [3, 2]"),
        (missing, "lacks `centres`"),
        (optimizer, "lacks `centres.exp_avg`"),
    ] {
        let mut head = head();
        let before = head.state().unwrap();
        let error = head.load_state(&state).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert_eq!(head.state().unwrap(), before);
    }
}

#[test]
fn centres_come_from_the_head_alone() {
    let mut head = head();
    let (x, labels) = batch(0);
    let centres = array![[0.0f32, 0.0], [0.0, 0.0], [0.0, 0.0]];
    let input = Input::new(x.view(), &labels).with_weights(centres.view());
    let error = head.step(input, None, Update::None).unwrap_err().to_string();
    assert!(error.contains("leave Input::weights empty"), "{error}");
    head.set_learning_rate(0.5).unwrap();
    assert_eq!(head.learning_rate(), Some(0.5));
    assert!(head.set_learning_rate(-1.0).is_err());
}
