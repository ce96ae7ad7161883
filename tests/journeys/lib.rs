//! Nothing here: this package exists for its journeys (`main.rs`), which run the real programs from end to end.
