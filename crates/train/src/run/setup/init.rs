//! Starting from another run's model.

use std::collections::{HashMap, HashSet};

use ndarray::{Array2, ArrayView2, Axis};

use crate::data::Dataset;
use crate::encoder::{Encoder, EncoderSpec};
use crate::head::CentreSpace;
use crate::run::{Model, RunFolder, RunOptions};
use crate::{Error, Result};

/// The model that `init_from` names.
pub(in crate::run) fn load(options: &RunOptions) -> Result<Option<Model>> {
    let Some(folder) = &options.init_from else { return Ok(None) };
    Model::load(&RunFolder::new(folder)).map(Some).map_err(|e| {
        Error::option("init_from", folder, format!("its model cannot be loaded ({e}); name a finished run"))
    })
}

/// The model's layers, with Finetuner's head where the output has another length or only the head learns.
pub(in crate::run) fn spec(options: &RunOptions, model: &Model) -> EncoderSpec {
    let native = model.encoder.output_dim();
    let dim = options.output_dim.unwrap_or(native);
    let spec = model.encoder.spec().clone();
    if options.freeze || dim != native { spec.with_head(dim) } else { spec }
}

/// The model's classes and behind them those of `trained` that it does not have.
pub(in crate::run) fn classes(model: &Model, trained: &[&String]) -> Vec<String> {
    let known: HashSet<&String> = model.classes.iter().collect();
    let new = trained.iter().copied().filter(|name| !known.contains(name));
    model.classes.iter().chain(new).cloned().collect()
}

/// The place of a class that is not trained on.
pub(in crate::run) const NOWHERE: u32 = u32::MAX;

/// The place in `classes` of each of `names`; [`NOWHERE`] for those that have none and are not among `trained`.
pub(in crate::run) fn class_index(
    names: &[String],
    trained: &[&String],
    classes: &[String],
) -> Result<Vec<u32>> {
    let places: HashMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
    let trained: HashSet<&String> = trained.iter().copied().collect();
    let place = |name: &String| match places.get(name.as_str()) {
        Some(&place) => Ok(place),
        None if !trained.contains(name) => Ok(NOWHERE),
        None => Err(Error::Unsuitable(format!(
            "the data's class `{name}` is not among the run's classes; start a new run"
        ))),
    };
    names.iter().map(place).collect()
}

/// The model's centres where those of a run of so many classes, `drawn`, can begin with them.
fn old_centres<'a>(model: &'a Model, drawn: (usize, usize), classes: usize) -> Option<ArrayView2<'a, f32>> {
    let each = drawn.0.checked_div(classes).unwrap_or(1).max(1);
    model.centres().filter(|old| old.dim() == (model.classes.len() * each, drawn.1))
}

/// What is said of where the centres, `drawn` of `classes` classes, begin.
pub(in crate::run) fn told(model: &Model, drawn: (usize, usize), classes: usize) -> String {
    let (old, new) = (model.classes.len(), classes.saturating_sub(model.classes.len()));
    match old_centres(model, drawn, classes) {
        Some(_) => {
            format!(
                "init_from: {old} classes of the earlier run, {new} new ones, whose centres start at their items' means"
            )
        }
        None => format!(
            "init_from: the earlier run has no centres that fit this loss; those of all {classes} classes start at their \
             items' means"
        ),
    }
}

/// Centres for `classes`, `[classes * each, dim]`: the model's where it has them, and for new classes the mean direction of
/// their items' embeddings in `rows`, as long as the model's centres are. `drawn` is used for classes without items.
pub(in crate::run) fn centres(
    options: &RunOptions,
    model: &Model,
    encoder: &Encoder,
    data: &Dataset,
    rows: &[usize],
    index: &[u32],
    drawn: ArrayView2<'_, f32>,
) -> Result<Array2<f32>> {
    let placed = index.iter().filter(|&&place| place != NOWHERE);
    let classes = placed.map(|&place| place as usize + 1).max().unwrap_or(0).max(model.classes.len());
    let each = drawn.nrows().checked_div(classes).unwrap_or(1).max(1);
    let old = old_centres(model, drawn.dim(), classes);
    let known = if old.is_some() { model.classes.len() } else { 0 };
    let mut centres = drawn.to_owned();
    let norm = |rows: ArrayView2<'_, f32>| {
        let norms = rows.rows().into_iter().map(|row| row.dot(&row).sqrt());
        norms.sum::<f32>() / rows.nrows().max(1) as f32
    };
    let length = match options.centers {
        CentreSpace::UnitSphere => 1.0,
        CentreSpace::Plain => old.map_or_else(|| norm(drawn), norm),
    };
    if let Some(old) = old {
        centres.rows_mut().into_iter().zip(old.rows()).for_each(|(mut to, from)| to.assign(&from));
    }
    let new: Vec<usize> =
        rows.iter().copied().filter(|&row| index[data.labels[row] as usize] as usize >= known).collect();
    let vectors = encoder.embed(&data.items, &new)?;
    let mut sums = Array2::<f32>::zeros((classes, drawn.ncols()));
    for (vector, &row) in vectors.rows().into_iter().zip(&new) {
        let norm = vector.dot(&vector).sqrt();
        if norm > 0.0 && norm.is_finite() {
            sums.row_mut(index[data.labels[row] as usize] as usize).scaled_add(1.0 / norm, &vector);
        }
    }
    for (class, sum) in sums.axis_iter(Axis(0)).enumerate() {
        let norm = sum.dot(&sum).sqrt();
        if norm == 0.0 {
            continue;
        }
        let own = centres.axis_iter_mut(Axis(0)).skip(class * each).take(each);
        for (place, mut centre) in own.enumerate() {
            // Sub-centres of one class must differ to specialise: all but the first stay partly as drawn.
            let drawn_share = if place == 0 { 0.0 } else { 0.3 };
            let own = centre.dot(&centre).sqrt().max(f32::MIN_POSITIVE);
            centre.zip_mut_with(&sum, |c, &s| *c = drawn_share * *c / own + s / norm);
            let now = centre.dot(&centre).sqrt().max(f32::MIN_POSITIVE);
            centre.mapv_inplace(|v| v * length / now);
        }
    }
    if options.centers == CentreSpace::UnitSphere {
        for mut centre in centres.rows_mut() {
            let norm = centre.dot(&centre).sqrt();
            if norm > 0.0 {
                centre.mapv_inplace(|v| v / norm);
            }
        }
    }
    Ok(centres)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Items, Places};
    use crate::run::setup::plan;

    #[test]
    fn classes_find_their_places() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let all = names(&["a", "b", "c"]);
        let data = |classes: &[&str], labels: &[u32]| Dataset {
            items: Items::Text(vec![String::new(); labels.len()]),
            labels: labels.to_vec(),
            classes: names(classes),
            places: Places::default(),
        };
        let index = |data: &Dataset| {
            let rows: Vec<usize> = (0..data.labels.len()).collect();
            class_index(&data.classes, &plan::trained_classes(data, &rows), &all)
        };
        assert_eq!(index(&data(&["c", "a"], &[0, 1])).unwrap(), [2, 0]);
        assert_eq!(index(&data(&["a", "b", "c"], &[0, 1, 2])).unwrap(), [0, 1, 2]);
        assert!(index(&data(&["d"], &[0])).unwrap_err().to_string().contains("class `d`"));
        // One that is only measured needs no centre.
        let measured = data(&["c", "d", "a"], &[2, 0, 2]);
        assert_eq!(index(&measured).unwrap(), [2, NOWHERE, 0]);
        assert_eq!(plan::trained_classes(&measured, &[0, 1]), ["c", "a"]);
        assert_eq!(plan::trained_classes(&measured, &[0]), ["a"]);
    }
}
