//! GeM over feature maps.

use std::path::Path;

use embedtune_pooling::{Gem, GemOptions, Pooling, Saved, maps};
use ndarray::{Array1, Array2, Array3, Array4};
use ndarray_npy::{read_npy, write_npy};

use super::Outcome;

/// One batch of maps with its gradients and what the forward pass keeps.
pub(super) struct Maps {
    options: Gem,
    p: Array1<f32>,
    x: Array3<f32>,
    dy: Array2<f32>,
    y: Array2<f32>,
    dx: Array3<f32>,
    d_p: Vec<f32>,
    sides: [usize; 2],
    saved: Saved,
}

impl Maps {
    pub(super) fn load(folder: &Path) -> Outcome<Self> {
        let x: Array4<f32> = read_npy(folder.join("x.npy"))?;
        let (batch, channels, height, width) = x.dim();
        let x = x.into_shape_with_order((batch, channels, height * width))?;
        let (dy, p): (Array2<f32>, Array1<f32>) =
            (read_npy(folder.join("dy.npy"))?, read_npy(folder.join("p.npy"))?);
        Ok(Self {
            options: GemOptions::default().build()?,
            y: Array2::zeros(dy.dim()),
            dx: Array3::zeros(x.dim()),
            d_p: vec![0.0; p.len()],
            sides: [height, width],
            saved: Saved::default(),
            p,
            x,
            dy,
        })
    }
}

impl super::Case for Maps {
    fn run(&mut self) -> Outcome<()> {
        let p = self.p.as_slice().ok_or("the powers have gaps")?;
        let gem = Pooling::GeM { p, options: &self.options, learnable: true };
        maps::forward(self.x.view(), gem, self.y.view_mut(), &mut self.saved)?;
        let (dx, d_p) = (Some(self.dx.view_mut()), Some(self.d_p.as_mut_slice()));
        Ok(maps::backward(self.x.view(), gem, &self.saved, self.dy.view(), dx, d_p)?)
    }

    fn write(&self, to: &Path) -> Outcome<()> {
        let (batch, channels, _) = self.dx.dim();
        let [height, width] = self.sides;
        write_npy(to.join("y.npy"), &self.y)?;
        write_npy(
            to.join("dx.npy"),
            &self.dx.view().into_shape_with_order((batch, channels, height, width))?,
        )?;
        write_npy(to.join("dp.npy"), &Array1::from_vec(self.d_p.clone()))?;
        Ok(())
    }
}
