//! Whose matrix products a call takes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaEvent, CudaStream};

use super::Precision;
use crate::{Error, Result};

/// Whose matrix products [`MarginSoftmax`](super::MarginSoftmax) takes. Losses and gradients of the two agree to rounding,
/// not to the bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[non_exhaustive]
pub enum Products {
    /// Those of this crate's kernels. The same bits on every run on one kind of GPU with one driver, which compiles them: tiles
    /// and sums depend on the sizes alone.
    Own,
    /// cuBLAS's, a tile of classes at a time, with this crate's kernels on what they leave in the second-level cache. The
    /// same bits on every run with the same version of cuBLAS on GPUs of the same kind, as NVIDIA promises of it. Where
    /// there is no cuBLAS, an error.
    Cublas,
    /// The faster of the two on this GPU, by the clock: of calls of the same sizes the first and third take our own
    /// products, the second and fourth cuBLAS's; the first of each starts it up, the other is timed, and from the fifth
    /// call on the faster one stays for as long as the [`Kernels`](crate::Kernels) live. Which one that is can differ from
    /// run to run where they are close, and the bits with it: choose one of the others where a run must repeat to the bit.
    /// Without cuBLAS, or with one that does not start or refuses the product, our own.
    #[default]
    Faster,
}

/// Sizes and options that a choice is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) sizes: [usize; 5],
    pub(super) precision: Precision,
    pub(super) outputs: [bool; 2],
}

/// What the calls of a key have shown so far.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Choice {
    /// Calls begun, and the milliseconds of our own products once they are known.
    Trying {
        calls: u32,
        own: Option<f32>,
    },
    Made(Products),
}

/// The choices made on one context.
#[derive(Default)]
pub(crate) struct Choices(Mutex<HashMap<Key, Choice>>);

/// A call's products, and when the device started and ended it if that is to be known.
pub(super) struct Turn {
    pub(super) products: Products,
    started: Option<CudaEvent>,
    ended: Option<CudaEvent>,
}

impl Turn {
    pub(super) fn forced(products: Products) -> Self {
        Self { products, started: None, ended: None }
    }

    /// All of the call's work has been given to the device.
    pub(super) fn stop(&mut self, stream: &CudaStream) -> Result<()> {
        if self.started.is_some() {
            self.ended = Some(event(stream)?);
        }
        Ok(())
    }
}

fn event(stream: &CudaStream) -> Result<CudaEvent> {
    stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(Error::driver("taking the time"))
}

impl Choices {
    fn with<R>(&self, key: Key, change: impl FnOnce(&mut Choice) -> R) -> R {
        let mut choices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(choices.entry(key).or_insert(Choice::Trying { calls: 0, own: None }))
    }

    /// Whose products the next call of these sizes takes.
    pub(super) fn begin(&self, key: Key, stream: &CudaStream) -> Result<Turn> {
        let call = self.with(key, |choice| match choice {
            Choice::Made(products) => Err(*products),
            Choice::Trying { calls, .. } => {
                *calls += 1;
                Ok(*calls)
            }
        });
        match call {
            Err(products) => Ok(Turn::forced(products)),
            Ok(call) => {
                let products = if call % 2 == 1 { Products::Own } else { Products::Cublas };
                Ok(Turn { products, started: (call > 2).then(|| event(stream)).transpose()?, ended: None })
            }
        }
    }

    /// After a call whose work the device has finished.
    pub(super) fn end(&self, key: Key, turn: &Turn) -> Result<()> {
        let (Some(started), Some(ended)) = (&turn.started, &turn.ended) else { return Ok(()) };
        let ms = started.elapsed_ms(ended).map_err(Error::driver("taking the time"))?;
        self.with(key, |choice| {
            if let Choice::Trying { own, .. } = choice {
                match (turn.products, *own) {
                    (Products::Own, _) => *own = Some(ms),
                    (_, Some(own)) => {
                        let products = if ms < own { Products::Cublas } else { Products::Own };
                        *choice = Choice::Made(products);
                    }
                    // Ours failed at something else when their time was to be taken: at the next turn.
                    (_, None) => {}
                }
            }
        });
        Ok(())
    }

    /// cuBLAS cannot be had.
    pub(super) fn settle(&self, key: Key, products: Products) {
        self.with(key, |choice| *choice = Choice::Made(products));
    }
}
