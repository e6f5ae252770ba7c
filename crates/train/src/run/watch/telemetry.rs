//! What is watched while an epoch runs: embeddings by class, how the centres turn, gradients.

use embedtune_core::Value;
use embedtune_core::linalg::normalize_rows;
use ndarray::{Array2, ArrayView1, ArrayView2, Axis};

use crate::run::model;
use crate::{Result, State};

/// Sums larger than this many values (64 MiB) are not kept: telemetry must not need more than training.
pub(in crate::run) const MOST_VALUES: usize = 1 << 24;

/// Running sums of the epoch under way.
pub(in crate::run) struct Telemetry {
    /// Unit embeddings by class, `[classes, dim]`; without rows where that would be too large.
    sums: Array2<f32>,
    /// Items in each sum.
    counts: Vec<u64>,
    /// Unit embeddings of all classes, `[1, dim]`.
    total: Array2<f32>,
    items: u64,
    /// The centres at the start of the epoch.
    centres: Option<Array2<f32>>,
    gradients: f64,
    updates: u64,
    last_gradient: f64,
}

/// What an epoch's sums say.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(in crate::run) struct Watched {
    pub(in crate::run) grad_norm: Option<f64>,
    /// Mean angle between a centre at the start and at the end of the epoch, in degrees.
    pub(in crate::run) centre_turn: Option<f64>,
    /// Mean angle between the mean embedding of a class and the nearest of its centres, in degrees.
    pub(in crate::run) centre_angle: Option<f64>,
    /// Mean cosine of two embeddings, whatever their classes.
    pub(in crate::run) mean_cosine: Option<f64>,
}

/// Bytes that watching takes: the sums, and a copy of the centres of `centres` bytes.
pub(in crate::run) fn bytes(classes: usize, dim: usize, centres: usize) -> usize {
    let kept = |values: usize| if values <= MOST_VALUES { values * size_of::<f32>() } else { 0 };
    kept(classes.saturating_mul(dim)) + kept(centres / size_of::<f32>())
}

impl Telemetry {
    pub(in crate::run) fn new(classes: usize, dim: usize) -> Self {
        let rows = if classes.saturating_mul(dim) <= MOST_VALUES { classes } else { 0 };
        Self {
            sums: Array2::zeros((rows, dim)),
            counts: vec![0; rows],
            total: Array2::zeros((1, dim)),
            items: 0,
            centres: None,
            gradients: 0.0,
            updates: 0,
            last_gradient: 0.0,
        }
    }

    /// A new epoch begins with these centres.
    pub(in crate::run) fn begin(&mut self, centres: Option<ArrayView2<'_, f32>>) {
        self.sums.fill(0.0);
        self.counts.fill(0);
        self.total.fill(0.0);
        (self.items, self.gradients, self.updates) = (0, 0.0, 0);
        // First, so that there are never two copies.
        self.centres = None;
        self.centres =
            centres.filter(|centres| centres.len() <= MOST_VALUES).map(|centres| centres.to_owned());
    }

    /// Counts a batch's embeddings.
    pub(in crate::run) fn watch(&mut self, embeddings: &Value, labels: &[u32]) -> Result<()> {
        let x = model::as_rows(embeddings.view())?;
        let mut unit = Array2::zeros(x.dim());
        normalize_rows(x, f32::MIN_POSITIVE, unit.view_mut())?;
        for (row, &label) in unit.rows().into_iter().zip(labels) {
            let mut total = self.total.row_mut(0);
            total += &row;
            self.items += 1;
            if let Some(count) = self.counts.get_mut(label as usize) {
                *count += 1;
                let mut sum = self.sums.row_mut(label as usize);
                sum += &row;
            }
        }
        Ok(())
    }

    /// Counts a step's gradient norm.
    pub(in crate::run) fn gradient(&mut self, norm: f64) {
        self.gradients += norm;
        self.updates += 1;
        self.last_gradient = norm;
    }

    /// The last step's.
    pub(in crate::run) fn last_gradient(&self) -> f64 {
        self.last_gradient
    }

    /// The epoch so far, with the centres as they are now.
    pub(in crate::run) fn watched(&self, centres: Option<ArrayView2<'_, f32>>) -> Watched {
        let turn = |now: ArrayView2<'_, f32>| {
            let before = self.centres.as_ref()?;
            let angles = before.rows().into_iter().zip(now.rows()).filter_map(|(a, b)| angle(a, b));
            mean(angles)
        };
        let to_classes = |now: ArrayView2<'_, f32>| {
            let each = now.nrows().checked_div(self.counts.len()).filter(|&each| each > 0)?;
            let present = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
            mean(present.filter_map(|(class, _)| {
                let own = now.axis_iter(Axis(0)).skip(class * each).take(each);
                own.filter_map(|centre| angle(centre, self.sums.row(class))).reduce(f64::min)
            }))
        };
        let items = self.items as f64;
        let length = self.total.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
        Watched {
            grad_norm: (self.updates > 0).then(|| self.gradients / self.updates as f64),
            centre_turn: centres.and_then(turn),
            centre_angle: centres.and_then(to_classes),
            // Without the pairs of an item with itself, whose cosine is 1.
            mean_cosine: (self.items > 1).then(|| (length - items) / (items * (items - 1.0))),
        }
    }

    /// All of it, where it is asked for in the middle of an epoch: an interrupted one says the same as a whole one. Between two
    /// what the next goes on with.
    pub(in crate::run) fn state(&self, within: bool) -> State {
        let mut state = State::default();
        state.counters.insert("last_gradient".to_owned(), self.last_gradient.to_bits());
        if !within || self.items == 0 {
            return state;
        }
        state.tensors.insert("sums".to_owned(), self.sums.clone().into_dyn());
        state.tensors.insert("total".to_owned(), self.total.clone().into_dyn());
        if let Some(centres) = &self.centres {
            state.tensors.insert("centres".to_owned(), centres.clone().into_dyn());
        }
        let counts = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        state.counters.extend(counts.map(|(class, &count)| (format!("count.{class}"), count)));
        state.counters.insert("items".to_owned(), self.items);
        state.counters.insert("updates".to_owned(), self.updates);
        state.counters.insert("gradients".to_owned(), self.gradients.to_bits());
        state
    }

    /// From [`state`](Self::state). What does not fit this run is left out: figures would be missing, never weights.
    pub(in crate::run) fn load(&mut self, state: &State) {
        let matrix = |name: &str, dim: (usize, usize)| {
            let tensor = state.tensors.get(name)?.clone().into_dimensionality().ok()?;
            Some(tensor).filter(|tensor: &Array2<f32>| tensor.dim() == dim)
        };
        let counter = |name: &str| state.counters.get(name).copied().unwrap_or(0);
        if let Some(sums) = matrix("sums", self.sums.dim()) {
            self.sums = sums;
        }
        if let Some(total) = matrix("total", self.total.dim()) {
            self.total = total;
        }
        self.centres = state.tensors.get("centres").and_then(|c| c.clone().into_dimensionality().ok());
        for (class, count) in self.counts.iter_mut().enumerate() {
            *count = counter(&format!("count.{class}"));
        }
        (self.items, self.updates) = (counter("items"), counter("updates"));
        self.gradients = f64::from_bits(counter("gradients"));
        self.last_gradient = f64::from_bits(counter("last_gradient"));
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0u64), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

/// The angle between two vectors in degrees, exact for small ones (2 asin of half the chord); none for a zero vector.
pub(in crate::run) fn angle(a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>) -> Option<f64> {
    let norm = |v: ArrayView1<'_, f32>| v.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let (na, nb) = (norm(a), norm(b));
    if !(na > 0.0 && nb > 0.0) {
        return None;
    }
    let chord =
        a.iter().zip(b).map(|(&a, &b)| (f64::from(a) / na - f64::from(b) / nb).powi(2)).sum::<f64>().sqrt();
    Some((2.0 * (chord / 2.0).min(1.0).asin()).to_degrees())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{arr1, arr2};

    #[test]
    fn angles_are_in_degrees_and_exact_when_small() {
        for (b, expected) in
            [([0.0f32, 3.0], 90.0), ([-2.0, 0.0], 180.0), ([1.0, 1e-4], 1e-4f64.atan().to_degrees())]
        {
            let found = angle(arr1(&[5.0f32, 0.0]).view(), arr1(&b).view()).unwrap();
            assert!((found - expected).abs() < 1e-6 * expected, "{found} {expected}");
        }
        assert_eq!(angle(arr1(&[0.0f32, 0.0]).view(), arr1(&[1.0f32, 0.0]).view()), None);
    }

    #[test]
    fn an_epoch_says_how_centres_turn_and_where_classes_are() {
        let mut telemetry = Telemetry::new(2, 2);
        telemetry.begin(Some(arr2(&[[1.0f32, 0.0], [0.0, 2.0]]).view()));
        let x = arr2(&[[3.0f32, 0.0], [0.0, 1.0], [0.0, 5.0]]).into_dyn().into_shared();
        telemetry.watch(&x, &[0, 0, 1]).unwrap();
        telemetry.gradient(2.0);
        telemetry.gradient(4.0);
        let now = arr2(&[[0.0f32, 1.0], [0.0, 1.0]]);
        let mut copy = Telemetry::new(2, 2);
        copy.load(&telemetry.state(true));
        for watched in [telemetry.watched(Some(now.view())), copy.watched(Some(now.view()))] {
            assert!((watched.centre_turn.unwrap() - 45.0).abs() < 1e-6, "{watched:?}");
            // Class 0's mean points to 45 degrees, its centre to 90; class 1's are the same.
            assert!((watched.centre_angle.unwrap() - 22.5).abs() < 1e-6, "{watched:?}");
            assert_eq!(watched.grad_norm, Some(3.0));
            assert!((watched.mean_cosine.unwrap() - 1.0 / 3.0).abs() < 1e-6, "{watched:?}");
        }
        assert_eq!(telemetry.watched(None).centre_turn, None);
    }
}
