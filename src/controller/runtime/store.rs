//! The objects that watches bring, by namespace and name.
//!
//! In: events of watches, one watch for each namespace or one for all. Out: the objects as they
//! were last seen, and what changed. Must not do: hold an object that a complete listing no longer
//! has.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{RwLock, RwLockReadGuard};

use kube::Resource;
use kube::runtime::watcher::Event;
use tokio::sync::watch;

use crate::controller::names::Name;

/// Objects of one kind.
pub struct Store<K> {
    objects: RwLock<BTreeMap<Name, Arc<K>>>,
    /// Watches that have not listed everything yet.
    unlisted: watch::Sender<usize>,
}

/// What happened to an object; at least one of the two is there.
pub struct ObjectEvent<'a, K> {
    pub before: Option<&'a Arc<K>>,
    pub after: Option<&'a Arc<K>>,
}

/// What one watch has brought of a listing that is not complete yet.
pub type Listing<K> = BTreeMap<Name, Arc<K>>;

pub fn name_of<K: Resource>(object: &K) -> Name {
    let metadata = object.meta();
    (
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

impl<K: Resource> Store<K> {
    /// A cache that this many watches fill.
    pub fn new(watches: usize) -> Self {
        Store {
            objects: RwLock::default(),
            unlisted: watch::Sender::new(watches),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Name, Arc<K>>> {
        self.objects.read()
    }

    pub fn get(&self, name: &Name) -> Option<Arc<K>> {
        self.read().get(name).cloned()
    }

    pub fn names(&self) -> Vec<Name> {
        self.read().keys().cloned().collect()
    }

    /// Those that `wanted` picks.
    pub fn filter(&self, wanted: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        self.read()
            .values()
            .filter(|object| wanted(object))
            .cloned()
            .collect()
    }

    /// Those of a namespace whose names begin so and that `wanted` picks.
    pub fn beginning(
        &self,
        namespace: &str,
        start: &str,
        wanted: impl Fn(&K) -> bool,
    ) -> Vec<Arc<K>> {
        let first = (namespace.to_owned(), start.to_owned());
        self.read()
            .range(first..)
            .take_while(|((of, name), _)| of == namespace && name.starts_with(start))
            .map(|(_, object)| object)
            .filter(|object| wanted(object))
            .cloned()
            .collect()
    }

    /// A watch may not list: callers stop waiting for it. False if it was listed, or given up,
    /// before.
    pub fn give_up(&self, first: &mut bool) -> bool {
        let first = std::mem::replace(first, false);
        if first {
            self.unlisted
                .send_modify(|left| *left = left.saturating_sub(1));
        }
        first
    }

    /// Waits until every watch has listed everything once.
    pub async fn listed(&self) {
        let mut unlisted = self.unlisted.subscribe();
        // The sender lives as long as this.
        let _ = unlisted.wait_for(|left| *left == 0).await;
    }

    /// Takes one event of the watch over `scope`, a namespace or all of them, and tells of each
    /// change.
    pub fn take(
        &self,
        scope: Option<&str>,
        listing: &mut Option<Listing<K>>,
        first: &mut bool,
        event: Event<K>,
        mut changed: impl FnMut(ObjectEvent<'_, K>),
    ) {
        match event {
            Event::Init => *listing = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                listing
                    .get_or_insert_default()
                    .insert(name_of(&object), Arc::new(object));
            }
            Event::InitDone => {
                let listed = listing.take().unwrap_or_default();
                let before = self.replace(scope, &listed);
                for (name, after) in &listed {
                    changed(ObjectEvent {
                        before: before.get(name),
                        after: Some(after),
                    });
                }
                for (_, before) in before
                    .iter()
                    .filter(|(name, _)| !listed.contains_key(*name))
                {
                    changed(ObjectEvent {
                        before: Some(before),
                        after: None,
                    });
                }
                self.give_up(first);
            }
            Event::Apply(object) => {
                let (name, after) = (name_of(&object), Arc::new(object));
                let before = self.write().insert(name, Arc::clone(&after));
                changed(ObjectEvent {
                    before: before.as_ref(),
                    after: Some(&after),
                });
            }
            Event::Delete(object) => {
                let before = self
                    .write()
                    .remove(&name_of(&object))
                    .unwrap_or_else(|| Arc::new(object));
                changed(ObjectEvent {
                    before: Some(&before),
                    after: None,
                });
            }
        }
    }

    fn write(&self) -> parking_lot::RwLockWriteGuard<'_, BTreeMap<Name, Arc<K>>> {
        self.objects.write()
    }

    /// Puts a complete listing of a scope in place; returns what was there of that scope.
    fn replace(&self, scope: Option<&str>, listed: &Listing<K>) -> Listing<K> {
        let mut objects = self.write();
        let within = |name: &Name| scope.is_none_or(|scope| scope == name.0);
        let (before, mut kept): (Listing<K>, Listing<K>) = std::mem::take(&mut *objects)
            .into_iter()
            .partition(|(name, _)| within(name));
        kept.extend(
            listed
                .iter()
                .map(|(name, object)| (name.clone(), Arc::clone(object))),
        );
        *objects = kept;
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(namespace: &str, name: &str, version: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.namespace = Some(namespace.to_owned());
        object.metadata.name = Some(name.to_owned());
        object.metadata.resource_version = Some(version.to_owned());
        object
    }

    fn told(change: &ObjectEvent<'_, ConfigMap>) -> String {
        let version = |object: Option<&Arc<ConfigMap>>| {
            object.map_or("-".to_owned(), |object| {
                format!(
                    "{}{}",
                    object.metadata.name.clone().unwrap(),
                    object.metadata.resource_version.clone().unwrap()
                )
            })
        };
        format!("{}>{}", version(change.before), version(change.after))
    }

    #[tokio::test]
    async fn a_new_listing_tells_what_came_and_went_within_its_scope_only() {
        let cache = Store::new(2);
        let mut changes = Vec::new();
        let (mut a, mut b) = ((None, true), (None, true));
        let events = [
            ("a", Event::Init),
            ("a", Event::InitApply(object("a", "x", "1"))),
            ("b", Event::Init),
            ("a", Event::InitDone),
            ("b", Event::InitApply(object("b", "z", "1"))),
            ("b", Event::InitDone),
            ("a", Event::Apply(object("a", "x", "2"))),
            ("a", Event::Apply(object("a", "y", "3"))),
            ("a", Event::Init),
            ("a", Event::InitApply(object("a", "y", "4"))),
            ("a", Event::InitDone),
            ("a", Event::Delete(object("a", "y", "5"))),
        ];
        for (scope, event) in events {
            let (listing, first) = if scope == "a" {
                (&mut a.0, &mut a.1)
            } else {
                (&mut b.0, &mut b.1)
            };
            cache.take(Some(scope), listing, first, event, |change| {
                changes.push(told(&change))
            });
        }
        assert_eq!(
            changes,
            ["->x1", "->z1", "x1>x2", "->y3", "y3>y4", "x2>-", "y4>-"]
        );
        cache.listed().await;
        assert_eq!(cache.names(), [("b".to_owned(), "z".to_owned())]);
    }
}
