//! The triplet cases that the criterion bench, the ratio program and the peers' script share.

use embedtune_core::linalg::matmul;
use embedtune_losses::{Miner, TripletKind, TripletMargin, TripletMarginOptions};
use ndarray::{Array2, ArrayView2};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Columns of every case.
pub const DIM: usize = 128;

/// One size and one set of options.
pub struct Case {
    /// Carries the sizes: `all-b1024-k16-d128`.
    pub name: String,
    /// Rows.
    pub batch: usize,
    /// Rows of each class.
    pub per_class: usize,
    /// The loss.
    pub options: TripletMarginOptions,
}

/// All cases, in the order of the table.
pub fn cases() -> Vec<Case> {
    let all = TripletMargin::builder();
    let semihard = all.clone().miner(Miner::triplet_margin(TripletKind::Semihard));
    [
        ("all", 1024, 16, all.clone()),
        ("swap", 1024, 16, all.clone().swap(true)),
        ("smooth", 1024, 16, all.clone().smooth(true)),
        ("swap-smooth", 1024, 16, all.clone().swap(true).smooth(true)),
        ("all", 4096, 16, all.clone()),
        ("all", 4096, 512, all.clone()),
        ("semihard", 4096, 16, semihard),
        ("hardest", 4096, 16, all.clone().miner(Miner::BatchHard)),
        ("all", 32_768, 32, all),
    ]
    .into_iter()
    .map(|(what, batch, per_class, options)| Case {
        name: format!("{what}-b{batch}-k{per_class}-d{DIM}"),
        batch,
        per_class,
        options,
    })
    .collect()
}

impl Case {
    /// Embeddings around their class's centre, as in the middle of a training, and their labels.
    pub fn inputs(&self) -> (Array2<f32>, Vec<u32>) {
        let mut rng = ChaCha8Rng::seed_from_u64(17);
        let classes = self.batch / self.per_class;
        let centres = Array2::from_shape_fn((classes, DIM), |_| rng.random_range(-1.0..1.0f32));
        let labels: Vec<u32> = (0..self.batch).map(|i| (i % classes) as u32).collect();
        let x = Array2::from_shape_fn((self.batch, DIM), |(i, j)| {
            centres[[i % classes, j]] + 1.5 * rng.random_range(-1.0..1.0f32)
        });
        (x, labels)
    }

    /// The bare products that the gradient of this loss needs, as large products as can be: all distances, and the
    /// coefficients with the embeddings. A batch-hard gradient has two terms a row: no product.
    pub fn products(&self) -> usize {
        if self.options.miner == Miner::BatchHard { 1 } else { 2 }
    }
}

/// Runs the [`Case::products`] of these embeddings, the second with the first one's result.
pub fn roofline(products: usize, x: ArrayView2<'_, f32>, gram: &mut Array2<f32>, out: &mut Array2<f32>) {
    let run = |alpha, a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>, c: &mut Array2<f32>| {
        matmul(alpha, a, b, 0.0, c.view_mut()).expect("the shapes fit");
    };
    run(1.0, x, x.t(), gram);
    if products > 1 {
        run(1.0, gram.view(), x, out);
    }
}
