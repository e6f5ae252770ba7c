//! A loss as an operation of burn's autodiff, on the Flex backend.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex};
use burn::tensor::{Shape, Tensor, TensorData};
use embedtune_losses::Loss;

use crate::{Error, evaluate};

/// Scales the gradients, which the loss computed together with its value, by that of the value.
#[derive(Debug)]
pub struct LossBackward;

impl<B: Backend> Backward<B, 2> for LossBackward {
    type State = [FloatTensor<B>; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let upstream = B::float_reshape(grads.consume::<B>(&ops.node), Shape::new([1, 1]));
        for (parent, gradient) in ops.parents.into_iter().zip(ops.state) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, B::float_mul(gradient, upstream.clone()));
            }
        }
    }
}

/// The loss, `[1]`, of the embeddings `x` with the class centres `w`; both on `Autodiff<Flex>`.
pub fn record(loss: &dyn Loss, x: Tensor<2>, w: Tensor<2>, labels: &[u32]) -> Result<Tensor<1>, Error> {
    let (stats, dx, dw) = evaluate(loss, &x, Some(&w), labels)?.into_vecs();
    let dw = dw.ok_or("this loss has no class centres: use `surrogate`")?;
    let inner = |values: Vec<f32>, dims: Vec<usize>| {
        Flex::float_from_data(TensorData::new(values, dims), &Default::default())
    };
    let state = [inner(dx, x.dims().into()), inner(dw, w.dims().into())];
    let value = inner(vec![stats.value.clamp(-f64::from(f32::MAX), f64::from(f32::MAX)) as f32], vec![1]);
    let primitive =
        |t: Tensor<2>| t.try_into_primitive::<Autodiff<Flex>>().map_err(|e| Error::from(format!("{e:?}")));
    let (x, w) = (primitive(x)?, primitive(w)?);
    let prepared =
        <LossBackward as Backward<Flex, 2>>::prepare::<NoCheckpointing>(LossBackward, [x.node(), w.node()]);
    let out = match prepared.compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(state, value),
        OpsKind::UnTracked(prepared) => prepared.finish(value),
    };
    Ok(Tensor::from_primitive::<Autodiff<Flex>>(out))
}
