//! What plugins keep for one pod's scheduling cycle.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;

/// Values that plugins keep from one extension point to the next, one of each type. It lives for one attempt.
#[derive(Default)]
pub struct CycleState {
    values: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
}

impl CycleState {
    /// Keeps a value; replaces the one of the same type.
    pub fn set<T: Send + Sync + 'static>(&mut self, value: T) {
        self.values.insert(TypeId::of::<T>(), Box::new(value));
    }
    /// The value of a type, if there is one.
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.values.get(&TypeId::of::<T>())?.downcast_ref()
    }
}

impl fmt::Debug for CycleState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CycleState({} values)", self.values.len())
    }
}
