//! Starting from another run's model.

use std::collections::BTreeMap;

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

/// The model's classes and behind them those that only `data` has.
pub(in crate::run) fn classes(model: &Model, data: &Dataset) -> Vec<String> {
    let mut classes = model.classes.clone();
    classes.extend(data.classes.iter().filter(|name| !model.classes.contains(name)).cloned());
    classes
}

/// The place of each of `names` in `classes`.
pub(in crate::run) fn class_index(names: &[String], classes: &[String]) -> Result<Vec<u32>> {
    if names == classes {
        return Ok((0..names.len() as u32).collect());
    }
    let places: BTreeMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
    let place = |name: &String| {
        places.get(name.as_str()).copied().ok_or_else(|| {
            Error::Unsuitable(format!(
                "the data's class `{name}` is not among the run's classes; start a new run"
            ))
        })
    };
    names.iter().map(place).collect()
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
    let classes = index.iter().map(|&place| place as usize + 1).max().unwrap_or(0).max(model.classes.len());
    let each = drawn.nrows().checked_div(classes).unwrap_or(1).max(1);
    let old = model.centres().filter(|old| old.dim() == (model.classes.len() * each, drawn.ncols()));
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

    #[test]
    fn classes_find_their_places() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let all = names(&["a", "b", "c"]);
        assert_eq!(class_index(&names(&["c", "a"]), &all).unwrap(), [2, 0]);
        assert_eq!(class_index(&all, &all).unwrap(), [0, 1, 2]);
        assert!(class_index(&names(&["d"]), &all).unwrap_err().to_string().contains("class `d`"));
    }
}
