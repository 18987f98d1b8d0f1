//! The writes that carry a plan out: Secrets, children, the bundle.
//!
//! In: a plan with its children, and the existing objects. Out: the objects afterwards. Must not
//! do: write what is as it should be, or touch what is not ours.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::error::{ApplyError, BuildError};
use super::fetch::Refs;
use super::memory::Remembered;
use super::tampering::Foreign;
use super::validate::{Plan, Verdict};
use super::{build, deliver, secrets};
use crate::api::condition::Reason;
use crate::controller::context::Context;
use crate::controller::key::OperatorKey;
use crate::controller::runtime::drift::{self, Change, ChildAction};
use crate::controller::runtime::kinds::{Child, Kind};
use crate::controller::runtime::objects::ObservedChild;
use crate::controller::runtime::throttle::sooner;
use crate::controller::runtime::writer::{Children, Created, WriteError};
use crate::policy::bundle::Bundle;
use crate::status::server::Refusal;

/// What the API server refused is tried again after this long, should what it was refused for have
/// gone (an admission policy).
const REFUSED_AGAIN: Duration = Duration::from_secs(300);
/// The same for what a quota or missing rights forbid, which comes and goes.
const FORBIDDEN_AGAIN: Duration = Duration::from_secs(30);
/// The same for a name that another object has. That object is not watched, and may be removed at
/// any time.
const NAME_CONFLICT_AGAIN: Duration = Duration::from_secs(5);

/// What became of a verdict on the API server.
#[derive(Debug, Default)]
pub struct Applied {
    /// When to look again, if something remains to be done.
    pub again: Option<Duration>,
    /// What the API server refused and the user can mend.
    pub refusal: Option<Refusal>,
}

/// What one server's writes need.
struct Writes<'a> {
    ctx: &'a Context,
    refs: &'a Refs,
    key: &'a OperatorKey,
    memory: &'a Remembered,
}

/// Carries out what was decided: the plan with its children or, without a plan, the current
/// policies on the server as it was accepted last.
pub async fn apply(
    ctx: &Context,
    refs: &Refs,
    key: &OperatorKey,
    verdict: &Verdict,
    children: Result<Vec<Child>, BuildError>,
    memory: &Remembered,
) -> Result<Applied, ApplyError> {
    let writes = Writes {
        ctx,
        refs,
        key,
        memory,
    };
    let held = verdict.held.as_ref();
    let done = match &verdict.plan {
        Ok(plan) => writes.plan(plan, held, children?).await,
        // What the verdict refuses is in the status whatever comes of this.
        Err(_) => return writes.hold(held).await.map(Applied::later),
    };
    match done {
        Ok(again) => Ok(Applied::later(again)),
        Err(error) => match refused(&error) {
            Some(applied) => Ok(applied),
            None => Err(error),
        },
    }
}

impl Applied {
    fn later(again: Option<Duration>) -> Self {
        Applied {
            again,
            refusal: None,
        }
    }
}

/// What of an error the user can mend, and when to look whether that was done by something that is
/// not watched.
fn refused(error: &ApplyError) -> Option<Applied> {
    let write = error.write()?;
    let (reason, again) = match write {
        WriteError::Foreign { .. } => (Reason::NameConflict, NAME_CONFLICT_AGAIN),
        WriteError::Refused {
            forbidden: true, ..
        } => (Reason::Invalid, FORBIDDEN_AGAIN),
        WriteError::Refused {
            forbidden: false, ..
        } => (Reason::Invalid, REFUSED_AGAIN),
        WriteError::Conflict { .. } | WriteError::Api { .. } => return None,
    };
    Some(Applied {
        again: Some(again),
        refusal: Some(Refusal {
            reason,
            message: format!("{write}."),
        }),
    })
}

impl Writes<'_> {
    async fn plan(
        &self,
        plan: &Plan,
        held: Option<&Bundle>,
        children: Vec<Child>,
    ) -> Result<Option<Duration>, ApplyError> {
        let ident = &self.refs.ident;
        // Nothing is half-made under a name that is another owner's; what is in force already
        // follows its policies all the same.
        let maps = [ident.gateway(), ident.ledger()].map(|name| (Kind::ConfigMap, name));
        let names = children
            .iter()
            .map(|child| (child.kind, child.name.clone()));
        if let Some((kind, name)) = maps
            .into_iter()
            .chain(names)
            .find(|(kind, name)| self.is_foreign(*kind, name))
        {
            self.restrict(plan, held).await?;
            let kind = kind.as_str();
            return Err(ApplyError::Child(WriteError::Foreign { kind, name }));
        }
        // What only policies say waits for nothing. Another server spec is in force only when the
        // API server has taken all that goes with it.
        let mut again = None;
        if held.is_none() {
            again = self.deliver(&plan.bundle).await?;
        }
        match self.make(plan, children).await {
            Ok(later) => again = sooner(again, later),
            Err(error) => {
                self.hold(held).await?;
                return Err(error);
            }
        }
        if held.is_some() {
            again = sooner(again, self.deliver(&plan.bundle).await?);
        }
        Ok(again)
    }

    /// Puts the current policies in force where nothing else can be carried out: on the server as
    /// it was accepted last, if that was another, else as the plan has it. A server that never had
    /// a bundle gets none.
    async fn restrict(
        &self,
        plan: &Plan,
        held: Option<&Bundle>,
    ) -> Result<Option<Duration>, ApplyError> {
        let has_bundle = self.memory.lock().bundle.is_some();
        self.hold(held.or_else(|| has_bundle.then_some(&plan.bundle)))
            .await
    }

    /// Puts the current policies in force on the server as it was accepted last.
    async fn hold(&self, held: Option<&Bundle>) -> Result<Option<Duration>, ApplyError> {
        match held {
            Some(held) if !self.is_foreign(Kind::ConfigMap, &self.refs.ident.gateway()) => {
                self.deliver(held).await
            }
            _ => Ok(None),
        }
    }

    async fn deliver(&self, bundle: &Bundle) -> Result<Option<Duration>, ApplyError> {
        let again = deliver::deliver(self.ctx, self.refs, self.key, bundle, self.memory).await?;
        Ok(again)
    }

    fn children(&self) -> Children<'_> {
        self.refs.writes(&self.ctx.client)
    }

    fn is_foreign(&self, kind: Kind, name: &str) -> bool {
        let live = self.refs.children.get(&(kind, name.to_owned()));
        live.is_some_and(|live| live.controller() != Some(&self.refs.ident.uid))
    }

    /// Writes Secrets and children, each after what it needs, and removes those that are no longer
    /// wanted.
    async fn make(
        &self,
        plan: &Plan,
        children: Vec<Child>,
    ) -> Result<Option<Duration>, ApplyError> {
        let mut again = None;
        if !self.refs.leaving {
            let client = &self.ctx.client;
            again = secrets::make(client, self.refs, &plan.server, self.memory).await?;
        }
        let mut kept = Vec::new();
        for child in children {
            if self.refs.leaving && self.refs.own(child.kind, &child.name).is_none() {
                continue;
            }
            kept.push((child.kind, child.name.clone()));
            again = sooner(again, self.one(child).await?);
        }
        for (kind, name) in build::possible(&self.refs.ident) {
            if kept.contains(&(kind, name.clone())) {
                continue;
            }
            if let Some(live) = self.refs.own(kind, &name) {
                self.children()
                    .delete(kind, live, &name)
                    .await
                    .map_err(ApplyError::Child)?;
            }
        }
        Ok(again)
    }

    /// Makes one child what it should be. Returns when to look again, if it waits.
    async fn one(&self, child: Child) -> Result<Option<Duration>, ApplyError> {
        let child = drift::stamped(child);
        let key = (child.kind, child.name.clone());
        let mark = self.memory.lock().marks.get(&key).cloned();
        let live = self.refs.children.get(&key).map(Arc::as_ref);
        let step = |live| {
            let owner = &self.refs.ident.uid;
            drift::step(&child, live, mark.as_ref(), owner, Instant::now())
        };
        let mut step_now = step(live);
        if step_now == ChildAction::Create {
            let created = self.children().create(&child).await;
            match created.map_err(ApplyError::Child)? {
                Created::New(live) => {
                    self.remember(&child, &live, false);
                    return Ok(None);
                }
                // The caches did not have it yet, or another writer has taken its labels off.
                Created::Ours(live) => {
                    step_now = step(Some(&live));
                    if let ChildAction::Apply { drift } = step_now {
                        return self.write_over(&child, &live, drift).await;
                    }
                }
            }
        }
        match (step_now, live) {
            (ChildAction::Apply { drift }, Some(live)) => {
                self.write_over(&child, live, drift).await
            }
            (ChildAction::Wait(left), _) => Ok(Some(left)),
            (ChildAction::Foreign, _) => Err(ApplyError::Child(WriteError::Foreign {
                kind: child.kind.as_str(),
                name: child.name,
            })),
            (ChildAction::Nothing | ChildAction::Create | ChildAction::Apply { .. }, _) => Ok(None),
        }
    }

    async fn write_over(
        &self,
        child: &Child,
        live: &ObservedChild,
        drift: bool,
    ) -> Result<Option<Duration>, ApplyError> {
        if drift {
            let changes = drift::changes(child, live);
            self.note_drift(child, live, &changes);
            if drift::is_to_be_made_again(child.kind, &changes) {
                return self.make_again(child, live).await;
            }
        }
        let mut written = self
            .children()
            .apply(child, live.uid(), drift)
            .await
            .map_err(ApplyError::Child)?;
        // An apply leaves what another writer has added beside ours: a field, a container, a
        // volume, a port.
        let left = if drift {
            drift::changes(child, &written)
        } else {
            Vec::new()
        };
        if !left.is_empty() {
            written = self
                .children()
                .merge(child, live.uid(), &left)
                .await
                .map_err(ApplyError::Child)?;
        }
        self.remember(child, &written, drift);
        Ok(None)
    }

    /// Another writer has changed, or made, what the API server lets no client change back.
    async fn make_again(
        &self,
        child: &Child,
        live: &ObservedChild,
    ) -> Result<Option<Duration>, ApplyError> {
        let children = self.children();
        let deleted = children.delete(child.kind, live, &child.name).await;
        deleted.map_err(ApplyError::Child)?;
        match children.create(child).await.map_err(ApplyError::Child)? {
            Created::New(live) => {
                self.remember(child, &live, true);
                Ok(None)
            }
            // A finalizer holds it.
            Created::Ours(_) => Ok(Some(FORBIDDEN_AGAIN)),
        }
    }

    /// Remembers who changed what, where the change lets pods do more.
    fn note_drift(&self, child: &Child, live: &ObservedChild, changes: &[Change]) {
        let mut memory = self.memory.lock();
        for change in changes.iter().filter(|change| change.widens) {
            let field = change.field();
            let manager = live.manager_of(&field);
            let foreign = Foreign { field, manager };
            memory
                .tampering
                .note(child.kind, &child.name, &foreign, Instant::now());
        }
        tracing::info!(
            kind = child.kind.as_str(),
            namespace = self.refs.ident.namespace,
            name = child.name,
            "reverting what another writer changed"
        );
    }

    fn remember(&self, child: &Child, live: &ObservedChild, drift: bool) {
        let key = (child.kind, child.name.clone());
        let mut memory = self.memory.lock();
        let mark = drift::mark(child, live, memory.marks.get(&key), drift, Instant::now());
        memory.marks.insert(key, mark);
    }
}
