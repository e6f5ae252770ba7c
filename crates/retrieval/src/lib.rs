//! retrieval.
