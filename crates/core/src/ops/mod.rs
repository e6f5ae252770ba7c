//! Differentiable operations on [`Var`](crate::Var), one family a file.
