//! Reverse-mode differentiation on an arena.
//!
//! A [`Tape`] owns the nodes of one forward pass in the order in which they were recorded, which is a topological
//! order: [`Tape::backward`] is one loop in reverse, without recursion, so a chain of any length fits any stack.
//! A [`Var`] is a reference and an index; it is `Copy`.
//!
//! Everything is recorded through one entry, [`Tape::record`]: this crate's operations, embedtune's losses and
//! pooling, and an operation of your own.
//!
//! ```
//! use embedtune_core::{Grad, Pool, Tape};
//! use ndarray::{arr1, ArrayD};
//!
//! let tape = Tape::new(&Pool::new());
//! let x = tape.leaf(arr1(&[1.0f32, 2.0, 3.0]).into_dyn());
//! let value = x.value();
//! // An operation of one's own: the cube.
//! let y = tape.record("cube", [x], value.mapv(|v| v * v * v), move |g: ArrayD<f32>, _| {
//!     Ok([Some(Grad::Dense(g * value.mapv(|v| 3.0 * v * v)))])
//! })?;
//! let loss = y.sum()?;
//! let grads = tape.backward(loss)?;
//! assert_eq!(grads.dense(x).unwrap().as_slice().unwrap(), &[3.0, 12.0, 27.0]);
//! # Ok::<(), embedtune_core::Error>(())
//! ```
//!
//! Drop the tape before the optimizer's step: the tape shares the parameters' buffers, and once it is gone they
//! are updated in place.

mod grad;

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};

use ndarray::{ArcArray, ArrayD, IxDyn};

pub use grad::{Grad, Grads, RowGrad};

use crate::{Error, Pool, Result};

/// A node's value: shared, copied only when written to.
pub type Value = ArcArray<f32, IxDyn>;

type Backward = Box<dyn FnOnce(ArrayD<f32>, &[bool]) -> Result<Vec<Option<Grad>>>>;

struct Node {
    name: &'static str,
    value: Value,
    needs_grad: bool,
    inputs: Vec<u32>,
    backward: Option<Backward>,
}

/// The record of one forward pass.
pub struct Tape {
    /// A number that no other tape of the process has: gradients outlive their tape, and its address may be another's then.
    id: u64,
    nodes: RefCell<Vec<Node>>,
    consumed: Cell<bool>,
    pool: Pool,
}

/// A value on a [`Tape`].
#[derive(Clone, Copy)]
pub struct Var<'t> {
    tape: &'t Tape,
    index: u32,
}

impl std::fmt::Debug for Var<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nodes = self.tape.nodes.borrow();
        let node = &nodes[self.index as usize];
        write!(f, "Var({} {:?})", node.name, node.value.shape())
    }
}

impl Tape {
    /// An empty tape whose operations take their buffers from `pool` (a handle; keep it between steps).
    pub fn new(pool: &Pool) -> Self {
        static TAPES: AtomicU64 = AtomicU64::new(0);
        let id = TAPES.fetch_add(1, Ordering::Relaxed);
        Self { id, nodes: RefCell::default(), consumed: Cell::new(false), pool: pool.clone() }
    }

    /// The buffers that operations on this tape should use.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// A value whose gradient is wanted: a parameter, or an input under test.
    pub fn leaf(&self, value: impl Into<Value>) -> Var<'_> {
        self.push("leaf", value.into(), true, Vec::new(), None)
    }

    /// A value whose gradient is not wanted: data.
    pub fn constant(&self, value: impl Into<Value>) -> Var<'_> {
        self.push("constant", value.into(), false, Vec::new(), None)
    }

    /// Records an operation: its inputs, its value and how a gradient flows back.
    ///
    /// `backward` receives the gradient of the value (same shape, owned: it may be overwritten and returned) and,
    /// for each input, whether its gradient is wanted; it returns one gradient for each input, of the input's
    /// shape, or `None` for "not wanted" or "zero". It runs at most once, and not at all when no input needs a
    /// gradient. What it returns is checked: [`backward`](Self::backward) ends in [`Error::Shape`] that names the operation
    /// for a gradient of another shape than the input's, and as [`RowGrad::check`] says for rows that do not fit.
    ///
    /// # Errors
    /// [`Error::ForeignVar`] if an input belongs to another tape.
    pub fn record<const N: usize>(
        &self,
        name: &'static str,
        inputs: [Var<'_>; N],
        value: impl Into<Value>,
        backward: impl FnOnce(ArrayD<f32>, [bool; N]) -> Result<[Option<Grad>; N]> + 'static,
    ) -> Result<Var<'_>> {
        self.record_many(name, &inputs, value, move |gradient, wanted| {
            let wanted = std::array::from_fn(|i| wanted[i]);
            Ok(backward(gradient, wanted)?.into())
        })
    }

    /// [`record`](Self::record) for a number of inputs known only at run time (concatenation). `backward` has to return as
    /// many gradients as there are inputs; another number is an error of the pass backward.
    ///
    /// # Errors
    /// [`Error::ForeignVar`] if an input belongs to another tape.
    pub fn record_many(
        &self,
        name: &'static str,
        inputs: &[Var<'_>],
        value: impl Into<Value>,
        backward: impl FnOnce(ArrayD<f32>, &[bool]) -> Result<Vec<Option<Grad>>> + 'static,
    ) -> Result<Var<'_>> {
        if inputs.iter().any(|input| !std::ptr::eq(input.tape, self)) {
            return Err(Error::ForeignVar { op: name });
        }
        let needs_grad = inputs.iter().any(Var::needs_grad);
        let indices = inputs.iter().map(|input| input.index).collect();
        let backward: Option<Backward> = if needs_grad { Some(Box::new(backward)) } else { None };
        Ok(self.push(name, value.into(), needs_grad, indices, backward))
    }

    fn push(
        &self,
        name: &'static str,
        value: Value,
        needs_grad: bool,
        inputs: Vec<u32>,
        backward: Option<Backward>,
    ) -> Var<'_> {
        let mut nodes = self.nodes.borrow_mut();
        let index = nodes.len() as u32;
        nodes.push(Node { name, value, needs_grad, inputs, backward });
        Var { tape: self, index }
    }

    /// The gradients of `of` (summed, if it has more than one element) with respect to every leaf.
    ///
    /// # Errors
    /// [`Error::TapeConsumed`] on a second call, [`Error::ForeignVar`] for a variable of another tape, and
    /// whatever an operation's own backward returns.
    pub fn backward(&self, of: Var<'_>) -> Result<Grads> {
        let ones = ArrayD::ones(of.value().raw_dim());
        self.backward_from(of, ones)
    }

    /// [`backward`](Self::backward) from a given gradient of `of`: how a loss computed outside the tape enters it.
    ///
    /// # Errors
    /// As [`backward`](Self::backward), and [`Error::Shape`] if `gradient` is not of the variable's shape.
    pub fn backward_from(&self, of: Var<'_>, gradient: ArrayD<f32>) -> Result<Grads> {
        if !std::ptr::eq(of.tape, self) {
            return Err(Error::ForeignVar { op: "backward" });
        }
        if gradient.shape() != of.value().shape() {
            return Err(Error::Shape {
                op: "backward",
                expected: format!("{:?}, the shape of {of:?}", of.value().shape()),
                got: gradient.shape().to_vec(),
            });
        }
        if self.consumed.replace(true) {
            return Err(Error::TapeConsumed);
        }
        let count = self.nodes.borrow().len();
        let mut pending: Vec<Option<Grad>> = Vec::new();
        pending.resize_with(count, || None);
        let mut leaves: Vec<Option<Grad>> = Vec::new();
        leaves.resize_with(count, || None);
        pending[of.index as usize] = Some(Grad::Dense(gradient));
        for index in (0..count).rev() {
            // The closure leaves the node before it runs, so that what it captured is freed with it.
            let (name, backward, inputs, needs_grad) = {
                let node = &mut self.nodes.borrow_mut()[index];
                (node.name, node.backward.take(), std::mem::take(&mut node.inputs), node.needs_grad)
            };
            if let Some(gradient) = pending[index].take().filter(|_| needs_grad) {
                match backward {
                    None => leaves[index] = Some(gradient),
                    Some(backward) => {
                        let wanted: Vec<bool> = {
                            let nodes = self.nodes.borrow();
                            inputs.iter().map(|&input| nodes[input as usize].needs_grad).collect()
                        };
                        let results = backward(gradient.into_dense()?, &wanted)?;
                        if results.len() != inputs.len() {
                            return Err(Error::Shape {
                                op: name,
                                expected: format!(
                                    "{} gradients from its backward, one or `None` for each input",
                                    inputs.len()
                                ),
                                got: vec![results.len()],
                            });
                        }
                        for ((&input, wanted), result) in inputs.iter().zip(wanted).zip(results) {
                            let Some(result) = result.filter(|_| wanted) else { continue };
                            self.check_gradient(name, input, &result)?;
                            let slot = &mut pending[input as usize];
                            *slot = Some(match slot.take() {
                                None => result,
                                Some(sum) => sum.add(result, &self.pool)?,
                            });
                        }
                    }
                }
            }
            self.reclaim(index);
        }
        Ok(Grads::new(self.id, leaves))
    }

    fn check_gradient(&self, name: &'static str, input: u32, gradient: &Grad) -> Result<()> {
        let nodes = self.nodes.borrow();
        let expected = nodes[input as usize].value.shape();
        if gradient.shape() != expected {
            return Err(Error::Shape {
                op: name,
                expected: format!("{expected:?}, the input's shape, as the shape of its gradient"),
                got: gradient.shape(),
            });
        }
        match gradient {
            Grad::Dense(_) => Ok(()),
            Grad::Rows(rows) => rows.check(name),
        }
    }

    /// Gives the buffer of a node that nobody else holds back to the pool. Leaves keep their values.
    fn reclaim(&self, index: usize) {
        let value = {
            let node = &mut self.nodes.borrow_mut()[index];
            if node.name == "leaf" || node.name == "constant" {
                return;
            }
            std::mem::replace(&mut node.value, Value::zeros(IxDyn(&[0])))
        };
        if let Ok(owned) = value.try_into_owned_nocopy() {
            let (buffer, offset) = owned.into_raw_vec_and_offset();
            if offset.unwrap_or(0) == 0 {
                self.pool.give(buffer);
            }
        }
    }

    /// Number of nodes recorded.
    pub fn len(&self) -> usize {
        self.nodes.borrow().len()
    }

    /// Whether nothing has been recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Tape {
    /// A pass without a backward pass gives its buffers back, too.
    fn drop(&mut self) {
        (0..self.len()).for_each(|index| self.reclaim(index));
    }
}

impl<'t> Var<'t> {
    /// The tape that owns this variable.
    pub fn tape(&self) -> &'t Tape {
        self.tape
    }

    /// The value (a shared handle; cheap). After [`Tape::backward`] the values of intermediate results are gone
    /// and an empty array is returned; read them before.
    pub fn value(&self) -> Value {
        self.tape.nodes.borrow()[self.index as usize].value.clone()
    }

    /// The value's shape.
    pub fn shape(&self) -> Vec<usize> {
        self.tape.nodes.borrow()[self.index as usize].value.shape().to_vec()
    }

    /// Whether a gradient flows to this variable.
    pub fn needs_grad(&self) -> bool {
        self.tape.nodes.borrow()[self.index as usize].needs_grad
    }

    /// The same value without a path for gradients.
    pub fn detach(&self) -> Var<'t> {
        self.tape.constant(self.value())
    }

    pub(crate) fn index(&self) -> usize {
        self.index as usize
    }
}
