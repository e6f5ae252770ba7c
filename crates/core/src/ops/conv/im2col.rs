//! Unfolding of an image into the matrix whose product with the weights is the convolution, and its adjoint.

/// One group of one image's convolution.
#[derive(Clone, Copy)]
pub(super) struct Geometry {
    pub(super) channels: usize,
    pub(super) input: [usize; 2],
    pub(super) output: [usize; 2],
    pub(super) kernel: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) padding: [usize; 2],
    pub(super) dilation: [usize; 2],
}

impl Geometry {
    pub(super) fn rows(&self) -> usize {
        self.channels * self.kernel[0] * self.kernel[1]
    }

    pub(super) fn columns(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// For a kernel column: the outputs whose input column lies inside the image, and the first of those inputs.
    fn span(&self, kernel_column: usize) -> (usize, usize, usize) {
        let (stride, padding) = (self.stride[1], self.padding[1]);
        let offset = kernel_column * self.dilation[1];
        let first = padding.saturating_sub(offset).div_ceil(stride).min(self.output[1]);
        let end = (self.input[1] + padding).saturating_sub(offset).div_ceil(stride).min(self.output[1]);
        // Beyond `usize` no output is left that would read it.
        (first, end.max(first), first.saturating_mul(stride).saturating_add(offset))
    }

    fn input_row(&self, output_row: usize, kernel_row: usize) -> Option<usize> {
        let row = output_row * self.stride[0] + kernel_row * self.dilation[0];
        row.checked_sub(self.padding[0]).filter(|&row| row < self.input[0])
    }

    fn for_each_line(&self, mut line: impl FnMut(usize, Option<usize>, (usize, usize, usize))) {
        let [height, width] = self.input;
        let mut out = 0;
        for channel in 0..self.channels {
            for kernel_row in 0..self.kernel[0] {
                for kernel_column in 0..self.kernel[1] {
                    let span = self.span(kernel_column);
                    for output_row in 0..self.output[0] {
                        let start = self
                            .input_row(output_row, kernel_row)
                            .map(|row| channel * height * width + row * width);
                        line(out, start, span);
                        out += self.output[1];
                    }
                }
            }
        }
    }
}

/// `columns` receives `[channels * kernel rows * kernel columns, output rows * output columns]`.
pub(super) fn unfold(geometry: &Geometry, image: &[f32], columns: &mut [f32]) {
    let (stride, padding, width) = (geometry.stride[1], geometry.padding[1], geometry.output[1]);
    geometry.for_each_line(|out, start, (first, end, at)| {
        let line = &mut columns[out..out + width];
        let Some(start) = start.filter(|_| first < end) else {
            line.fill(0.0);
            return;
        };
        line[..first].fill(0.0);
        line[end..].fill(0.0);
        let source = start + at - padding;
        if stride == 1 {
            line[first..end].copy_from_slice(&image[source..source + end - first]);
        } else {
            for (k, to) in line[first..end].iter_mut().enumerate() {
                *to = image[source + k * stride];
            }
        }
    });
}

/// The adjoint of [`unfold`]: adds every column entry back to the pixel that it came from.
pub(super) fn fold(geometry: &Geometry, columns: &[f32], image: &mut [f32]) {
    let (stride, padding, width) = (geometry.stride[1], geometry.padding[1], geometry.output[1]);
    geometry.for_each_line(|out, start, (first, end, at)| {
        let Some(start) = start.filter(|_| first < end) else { return };
        let line = &columns[out + first..out + end.min(width)];
        let source = start + at - padding;
        if stride == 1 {
            image[source..source + line.len()].iter_mut().zip(line).for_each(|(to, v)| *to += v);
        } else {
            for (k, v) in line.iter().enumerate() {
                image[source + k * stride] += v;
            }
        }
    });
}
