//! What a label value can say: templates and relabelling rules. Pure.

pub mod relabel;
pub mod template;
pub mod values;
