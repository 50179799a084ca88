//! The index of an open lane, for those who ask about a path while the lane's own thread works.

use std::sync::{Arc, PoisonError, RwLock};

use super::store::Index;

/// A place where a lane's index can be found while it is open. The store takes no second opener, so whoever wants to read
/// it has to be lent it.
#[derive(Clone, Default)]
pub struct Shelf(Arc<RwLock<Option<Arc<Index>>>>);

/// An index on a [`Shelf`]; taken off when dropped, which waits for those who are reading it.
pub struct Lent(Shelf);

impl Shelf {
    /// Puts an index there in place of what was there.
    pub fn lend(&self, index: Arc<Index>) -> Lent {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(index);
        Lent(self.clone())
    }

    /// Reads the index that is there; nothing when none is. What is read must be bounded, and read from the local disk alone.
    pub fn read<T>(&self, look: impl FnOnce(&Index) -> T) -> Option<T> {
        let lent = self.0.read().unwrap_or_else(PoisonError::into_inner);
        lent.as_deref().map(look)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        *self.0.0.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_there_as_long_as_it_is_lent() {
        let shelf = Shelf::default();
        assert!(shelf.read(|_| ()).is_none());
        let index = Arc::new(Index::in_memory().unwrap());
        let lent = shelf.lend(index.clone());
        assert!(shelf.read(|index| index.view().is_ok()).unwrap());
        drop(lent);
        assert!(shelf.read(|_| ()).is_none());
        assert_eq!(Arc::strong_count(&index), 1, "the shelf keeps none open");
    }
}
