//! What an optimizer remembers of each parameter.

use std::collections::{BTreeMap, BTreeSet};

use embedtune_core::Grad;
use ndarray::{ArrayD, IxDyn};

use super::Param;
use crate::{Error, Result, State};

const STEP: &str = "step";

/// What a parameter's state consists of, and where it starts.
#[derive(Debug, Clone, Default)]
pub(super) struct Layout {
    /// Buffers of the parameter's shape: name and the value of every element.
    pub(super) buffers: Vec<(&'static str, f32)>,
    /// Numbers that belong to the parameter as a whole.
    pub(super) scalars: Vec<(&'static str, f64)>,
}

/// The state of all parameters of one optimizer.
pub(super) struct Slots {
    owner: &'static str,
    by_param: BTreeMap<String, Slot>,
}

/// The state of one parameter: each buffer in the parameter's row-major order.
pub(super) struct Slot {
    pub(super) step: u64,
    pub(super) buffers: Vec<Vec<f32>>,
    pub(super) scalars: Vec<f64>,
    /// For a table whose gradients have all been row-sparse: the rows that ever had one. The buffers of the others
    /// are as they started. `None`: any row may have had one.
    pub(super) seen: Option<Vec<bool>>,
    shape: Vec<usize>,
}

impl Slots {
    /// No state yet, of an optimizer called `owner`.
    pub(super) fn new(owner: &'static str) -> Self {
        Self { owner, by_param: BTreeMap::new() }
    }

    /// Updates each parameter that has a gradient with its slot, whose step count has been advanced. Shapes have been
    /// [checked](Self::check).
    pub(super) fn update(
        &mut self,
        params: &mut [Param<'_>],
        layout: &Layout,
        update: &mut dyn FnMut(&mut Param<'_>, &Grad, &mut Slot) -> Result<()>,
    ) -> Result<()> {
        for param in params {
            let Some(grad) = param.grad.take() else { continue };
            if !self.by_param.contains_key(param.name) {
                let slot = Slot::new(layout, param.value.shape(), &grad);
                self.by_param.insert(param.name.to_owned(), slot);
            }
            let result = match self.by_param.get_mut(param.name) {
                Some(slot) => {
                    slot.step += 1;
                    update(param, &grad, slot)
                }
                None => Ok(()),
            };
            param.grad = Some(grad);
            result?;
        }
        Ok(())
    }

    /// Checks names and shapes, so that no parameter is updated if one cannot be.
    pub(super) fn check(&self, params: &[Param<'_>]) -> Result<()> {
        check(params)?;
        for param in params.iter().filter(|param| param.grad.is_some()) {
            let shape = param.value.shape();
            if let Some(slot) = self.by_param.get(param.name).filter(|slot| slot.shape != shape) {
                return Err(Error::Unsuitable(format!(
                    "parameter `{}`: its optimizer state has shape {:?}, but its value has {shape:?}; \
                     the checkpoint belongs to another model",
                    param.name, slot.shape
                )));
            }
        }
        Ok(())
    }

    pub(super) fn state(&self, layout: &Layout) -> State {
        let mut state = State::default();
        if layout.buffers.is_empty() {
            // The step count matters only together with a buffer.
            return state;
        }
        for (param, slot) in &self.by_param {
            state.counters.insert(format!("{param}.{STEP}"), slot.step);
            for ((name, _), value) in layout.scalars.iter().zip(&slot.scalars) {
                state.counters.insert(format!("{param}.{name}"), value.to_bits());
            }
            for ((name, _), buffer) in layout.buffers.iter().zip(&slot.buffers) {
                if let Ok(tensor) = ArrayD::from_shape_vec(IxDyn(&slot.shape), buffer.clone()) {
                    state.tensors.insert(format!("{param}.{name}"), tensor);
                }
            }
        }
        state
    }

    pub(super) fn load(&mut self, state: &State, layout: &Layout) -> Result<()> {
        let owner = self.owner;
        let foreign = |key: &str| {
            Error::Unsuitable(format!(
                "the optimizer state holds `{key}`, which {owner} with these options does not keep; \
                 resume with the optimizer and the options that wrote it"
            ))
        };
        let lacks =
            |key: &str| Error::Unsuitable(format!("the optimizer state lacks `{key}`, which {owner} keeps"));
        for key in state.tensors.keys() {
            let (param, name) = key.rsplit_once('.').ok_or_else(|| foreign(key))?;
            let known = layout.buffers.iter().any(|(buffer, _)| *buffer == name);
            if !known || !state.counters.contains_key(&format!("{param}.{STEP}")) {
                return Err(foreign(key));
            }
        }
        for key in state.counters.keys() {
            let (param, name) = key.rsplit_once('.').ok_or_else(|| foreign(key))?;
            let known = name == STEP || layout.scalars.iter().any(|(scalar, _)| *scalar == name);
            if !known || !state.counters.contains_key(&format!("{param}.{STEP}")) {
                return Err(foreign(key));
            }
        }
        let mut loaded = BTreeMap::new();
        for (key, &step) in &state.counters {
            let Some(param) = key.strip_suffix(STEP).and_then(|key| key.strip_suffix('.')) else { continue };
            let scalars = layout.scalars.iter().map(|(name, _)| {
                let key = format!("{param}.{name}");
                state.counters.get(&key).map(|&bits| f64::from_bits(bits)).ok_or_else(|| lacks(&key))
            });
            let scalars: Vec<f64> = scalars.collect::<Result<_>>()?;
            let tensors = layout.buffers.iter().map(|(name, _)| {
                let key = format!("{param}.{name}");
                state.tensors.get(&key).ok_or_else(|| lacks(&key))
            });
            let tensors: Vec<&ArrayD<f32>> = tensors.collect::<Result<_>>()?;
            let first = tensors.first().ok_or_else(|| foreign(key))?;
            if let Some(other) = tensors.iter().find(|tensor| tensor.shape() != first.shape()) {
                return Err(Error::Unsuitable(format!(
                    "the optimizer state of `{param}` holds tensors of shapes {:?} and {:?}",
                    first.shape(),
                    other.shape()
                )));
            }
            let buffers: Vec<Vec<f32>> =
                tensors.iter().map(|tensor| tensor.iter().copied().collect()).collect();
            let shape = first.shape().to_vec();
            let seen = moved_rows(&shape, &buffers, layout);
            loaded.insert(param.to_owned(), Slot { step, buffers, scalars, seen, shape });
        }
        self.by_param = loaded;
        Ok(())
    }
}

/// Checks that names are unique and gradients have their parameters' shapes.
pub(super) fn check(params: &[Param<'_>]) -> Result<()> {
    let mut names = BTreeSet::new();
    for param in params {
        let wrong = |detail: String| Err(Error::Unsuitable(format!("parameter `{}`: {detail}", param.name)));
        if !names.insert(param.name) {
            return wrong("two parameters have this name; names key the optimizer's state".to_owned());
        }
        let Some(grad) = &param.grad else { continue };
        let (shape, got) = (param.value.shape(), grad.shape());
        if got != shape {
            return wrong(format!("its gradient has shape {got:?}, but its value has {shape:?}"));
        }
        if let Grad::Rows(rows) = grad {
            rows.check("optimizer step").or_else(|error| wrong(error.to_string()))?;
        }
    }
    Ok(())
}

impl Slot {
    fn new(layout: &Layout, shape: &[usize], grad: &Grad) -> Self {
        let len = shape.iter().product();
        let seen = match grad {
            Grad::Rows(rows) => Some(vec![false; rows.table_rows]),
            Grad::Dense(_) => None,
        };
        let buffers = layout.buffers.iter().map(|&(_, start)| vec![start; len]).collect();
        let scalars = layout.scalars.iter().map(|&(_, start)| start).collect();
        Self { step: 0, buffers, scalars, seen, shape: shape.to_vec() }
    }
}

/// The rows in which any buffer is not as it starts, if this is a table.
fn moved_rows(shape: &[usize], buffers: &[Vec<f32>], layout: &Layout) -> Option<Vec<bool>> {
    let &[rows, dim] = shape else { return None };
    let mut seen = vec![false; rows];
    for (buffer, &(_, start)) in buffers.iter().zip(&layout.buffers) {
        for (seen, row) in seen.iter_mut().zip(buffer.chunks_exact(dim.max(1))) {
            *seen |= row.iter().any(|&v| v != start);
        }
    }
    Some(seen)
}
