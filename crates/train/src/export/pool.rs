//! Pooling as ONNX nodes: over the pixels of feature maps, or over the tokens that count.

use embedtune_pooling::{MIN_P, PoolerKind, PoolerOptions, Sign};

use super::graph::{Attribute, Graph};
use super::layers::Flow;
use crate::{Error, Result};

/// As in embedtune-pooling: where the signed root becomes a straight line.
const STRAIGHT: f32 = 1e-3;

/// What is pooled over.
struct Over {
    x: String,
    /// `[batch, tokens, 1]`, true for tokens that count; `None` where everything does.
    counts: Option<String>,
    axes: &'static [i64],
    dim: usize,
}

pub(super) fn add(
    graph: &mut Graph,
    kind: PoolerKind,
    options: &PoolerOptions,
    name: &str,
    flow: Flow,
) -> Result<Flow> {
    let mut over = match flow {
        Flow::Map { x, channels } => Over { x, counts: None, axes: &[2, 3], dim: channels },
        Flow::Sequence { x, counts, dim } => {
            let last = graph.axes(&[-1]);
            let counts = graph.op("Unsqueeze", &[&counts, &last], &[]);
            // What does not count may hold anything, NaN too.
            let zero = graph.scalar(0.0);
            let x = graph.op("Where", &[&counts, &x, &zero], &[]);
            Over { x, counts: Some(counts), axes: &[1], dim }
        }
        _ => return Err(Error::Unsuitable(format!("{kind:?} pooling cannot be written as ONNX here"))),
    };
    let pooled = match kind {
        PoolerKind::Avg => {
            let x = over.x.clone();
            over.mean(graph, &x)
        }
        PoolerKind::Max => over.max(graph),
        PoolerKind::GeM => {
            let p = graph.take(&format!("{name}.p"))?;
            let p: Vec<f32> = p.iter().map(|&p| p.max(MIN_P)).collect();
            over.gem(graph, &p, options)
        }
        other => return Err(Error::Unsuitable(format!("{other:?} pooling cannot be written as ONNX"))),
    };
    if over.counts.is_none() {
        // `[batch, channels, 1, 1]`.
        let flat = graph.op("Flatten", &[&pooled], &[]);
        return Ok(Flow::Vector { x: flat, dim: over.dim });
    }
    let axes = graph.axes(&[1]);
    Ok(Flow::Vector { x: graph.op("Squeeze", &[&pooled, &axes], &[]), dim: over.dim })
}

impl Over {
    fn reduce(&self, graph: &mut Graph, op: &str, x: &str) -> String {
        graph.op(op, &[x], &[("axes", Attribute::Ints(self.axes)), ("keepdims", Attribute::Int(1))])
    }

    /// The mean over what counts; 0 where nothing does. `x` must be 0 where it does not count.
    fn mean(&mut self, graph: &mut Graph, x: &str) -> String {
        let Some(counts) = self.counts.clone() else { return self.reduce(graph, "ReduceMean", x) };
        let axes = graph.axes(self.axes);
        let sum = graph.op("ReduceSum", &[x, &axes], &[]);
        let flags = graph.op("Cast", &[&counts], &[("to", Attribute::Int(1))]);
        let number = graph.op("ReduceSum", &[&flags, &axes], &[]);
        let one = graph.scalar(1.0);
        let number = graph.op("Max", &[&number, &one], &[]);
        graph.op("Div", &[&sum, &number], &[])
    }

    /// `x` where it counts and `other` elsewhere.
    fn or(&self, graph: &mut Graph, x: &str, other: f32) -> String {
        let Some(counts) = &self.counts else { return x.to_owned() };
        let other = graph.scalar(other);
        graph.op("Where", &[counts, x, &other], &[])
    }

    /// 0 for items of which nothing counts.
    fn unless_empty(&self, graph: &mut Graph, y: &str) -> String {
        let Some(counts) = &self.counts else { return y.to_owned() };
        let flags = graph.op("Cast", &[counts], &[("to", Attribute::Int(1))]);
        let any = self.reduce(graph, "ReduceMax", &flags);
        let zero = graph.scalar(0.0);
        let any = graph.op("Greater", &[&any, &zero], &[]);
        graph.op("Where", &[&any, y, &zero], &[])
    }

    fn max(&self, graph: &mut Graph) -> String {
        let x = self.or(graph, &self.x, f32::MIN);
        let top = self.reduce(graph, "ReduceMax", &x);
        self.unless_empty(graph, &top)
    }

    /// GeM relative to the largest magnitude, as `embedtune_pooling` computes it: no power overflows.
    fn gem(&mut self, graph: &mut Graph, p: &[f32], options: &PoolerOptions) -> String {
        let sign = options.sign.unwrap_or_default();
        let eps = graph.scalar(options.eps as f32);
        let shape: &[usize] = match (p.len(), self.counts.is_some()) {
            (1, _) => &[1],
            (n, true) => &[1, 1, n],
            (n, false) => &[1, n, 1, 1],
        };
        let power = graph.constant(shape, p);
        let inverse: Vec<f32> = p.iter().map(|p| 1.0 / p).collect();
        let inverse = graph.constant(shape, &inverse);
        let mut low = String::new();
        let magnitudes = match sign {
            Sign::Shift => {
                let x = self.or(graph, &self.x, f32::MAX);
                low = self.reduce(graph, "ReduceMin", &x);
                let shifted = graph.op("Sub", &[&self.x, &low], &[]);
                graph.op("Add", &[&shifted, &eps], &[])
            }
            Sign::Signed => {
                let size = graph.op("Abs", &[&self.x], &[]);
                graph.op("Max", &[&size, &eps], &[])
            }
            _ => graph.op("Max", &[&self.x, &eps], &[]),
        };
        let counted = self.or(graph, &magnitudes, 0.0);
        let top = self.reduce(graph, "ReduceMax", &counted);
        let top = graph.op("Max", &[&top, &eps], &[]);
        let relative = graph.op("Div", &[&counted, &top], &[]);
        let mut powers = graph.op("Pow", &[&relative, &power], &[]);
        if sign == Sign::Signed {
            let (one, minus) = (graph.scalar(1.0), graph.scalar(-1.0));
            let line = graph.op("Div", &[&self.x, &eps], &[]);
            let signs = graph.op("Clip", &[&line, &minus, &one], &[]);
            powers = graph.op("Mul", &[&powers, &signs], &[]);
        }
        let mean = self.mean(graph, &powers);
        let root = if sign == Sign::Signed {
            self.signed_root(graph, &mean, &inverse, shape, p)
        } else {
            graph.op("Pow", &[&mean, &inverse], &[])
        };
        let mut y = graph.op("Mul", &[&top, &root], &[]);
        if sign == Sign::Shift {
            y = graph.op("Add", &[&y, &low], &[]);
            y = graph.op("Sub", &[&y, &eps], &[]);
        }
        self.unless_empty(graph, &y)
    }

    /// `sign(S) |S|^(1/p)`, and a straight line near 0.
    fn signed_root(
        &self,
        graph: &mut Graph,
        mean: &str,
        inverse: &str,
        shape: &[usize],
        p: &[f32],
    ) -> String {
        let slopes: Vec<f32> = p.iter().map(|p| STRAIGHT.powf(1.0 / p - 1.0)).collect();
        let (slope, straight) = (graph.constant(shape, &slopes), graph.scalar(STRAIGHT));
        let size = graph.op("Abs", &[mean], &[]);
        let near = graph.op("Less", &[&size, &straight], &[]);
        let line = graph.op("Mul", &[mean, &slope], &[]);
        let direction = graph.op("Sign", &[mean], &[]);
        let root = graph.op("Pow", &[&size, inverse], &[]);
        let curve = graph.op("Mul", &[&root, &direction], &[]);
        graph.op("Where", &[&near, &line, &curve], &[])
    }
}
