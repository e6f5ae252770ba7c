//! What becomes of a tile of centres: its gradient, or an optimizer's step.

use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::{Centres, MarginSoftmax};
use crate::kernels::{Arg, Args, Shape};
use crate::{Result, Storage, Write};

impl MarginSoftmax {
    pub(super) fn move_centres<W: Storage>(
        &self,
        stream: &Arc<CudaStream>,
        centres: &mut Centres<'_, '_, W>,
        range: std::ops::Range<usize>,
        count: usize,
        args: Args<'_>,
    ) -> Result<()> {
        let (kernels, shape) = (&self.kernels, Shape::warps(count));
        match centres {
            Centres::Frozen(_) => Ok(()),
            Centres::Gradient(w, dw, write) => {
                let (w, mut dw) = (w.slice(range.clone()), dw.slice_mut(range));
                let args = args.read(&w, stream).write(&mut dw, stream).flag(*write == Write::Add);
                kernels.launch(stream, &format!("centre_gradient_{}", W::SUFFIX), shape, args)
            }
            Centres::Sgd(w, buffer, options) => {
                let mut w = w.slice_mut(range.clone());
                let mut buffer = match buffer {
                    Some(buffer) if options.momentum > 0.0 => Some(buffer.slice_mut(range)),
                    _ => None,
                };
                let args = args.write(&mut w, stream);
                let args = match &mut buffer {
                    Some(buffer) => args.write(buffer, stream),
                    None => args.arg(Arg::NULL),
                };
                let args = args.all(&options.arguments());
                kernels.launch(stream, "centre_sgd", shape, args)
            }
            Centres::Adam(w, [first, second], largest, options) => {
                let mut w = w.slice_mut(range.clone());
                let (mut first, mut second) =
                    (first.slice_mut(range.clone()), second.slice_mut(range.clone()));
                let mut largest = largest.as_mut().map(|largest| largest.slice_mut(range));
                let args = args.write(&mut w, stream).write(&mut first, stream).write(&mut second, stream);
                let args = match &mut largest {
                    Some(largest) => args.write(largest, stream),
                    None => args.arg(Arg::NULL),
                };
                kernels.launch(stream, "centre_adam", shape, args.all(&options.arguments()))
            }
        }
    }
}
