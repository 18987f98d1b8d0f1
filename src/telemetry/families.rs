//! Registering metric families.
//!
//! In: a registry, names, help texts. Out: families that are registered, for those who count in
//! them.

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry, Unit};

/// A registry under a prefix.
pub struct Families<'a>(&'a mut Registry);

/// A histogram for each set of labels.
pub type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

impl<'a> Families<'a> {
    /// Families whose names begin with `prefix`.
    pub fn new(registry: &'a mut Registry, prefix: &str) -> Self {
        Families(registry.sub_registry_with_prefix(prefix))
    }

    /// Registers a family.
    pub fn add<M: Metric + Clone>(&mut self, name: &str, help: &str, family: M) -> M {
        self.0.register(name, help, family.clone());
        family
    }

    /// Registers a family that counts seconds.
    pub fn seconds<M: Metric + Clone>(&mut self, name: &str, help: &str, family: M) -> M {
        self.0
            .register_with_unit(name, help, Unit::Seconds, family.clone());
        family
    }
}

/// A histogram with that many buckets, each twice as wide as the one before.
pub fn doubling(first: f64, buckets: u16) -> Histogram {
    Histogram::new(exponential_buckets(first, 2.0, buckets))
}

/// Has metrics show an enum by its `as_str`.
#[macro_export]
#[doc(hidden)]
macro_rules! label_value {
    ($kind:ty) => {
        impl prometheus_client::encoding::EncodeLabelValue for $kind {
            fn encode(
                &self,
                encoder: &mut prometheus_client::encoding::LabelValueEncoder,
            ) -> Result<(), std::fmt::Error> {
                prometheus_client::encoding::EncodeLabelValue::encode(&self.as_str(), encoder)
            }
        }
    };
}
pub use label_value;

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn what_is_registered_is_what_is_counted_in() {
        let mut registry = Registry::default();
        let mut families = Families::new(&mut registry, "ours");
        let calls = families.add("calls", "Calls", Counter::<u64>::default());
        let time = families.seconds("time", "Time", doubling(0.5, 3));
        calls.inc_by(3);
        time.observe(0.6);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "ours_calls_total 3",
            "ours_time_seconds_bucket{le=\"0.5\"} 0",
            "ours_time_seconds_bucket{le=\"1.0\"} 1",
            "ours_time_seconds_bucket{le=\"2.0\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
