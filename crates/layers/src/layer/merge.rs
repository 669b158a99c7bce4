//! Several sorted streams as one, the newest stream winning where two have the same position.

use crate::error::StorageError;
use std::iter::Peekable;

/// A sorted stream of items or errors.
pub type Stream<T> = Box<dyn Iterator<Item = Result<T, StorageError>> + Send>;

/// Merges streams, given oldest first, by the position that `at` reads off an item; of items at the same position
/// `choose(older, newer)` keeps one.
pub struct Merge<T, P> {
    streams: Vec<Peekable<Stream<T>>>,
    at: fn(&T) -> P,
    choose: fn(T, T) -> T,
}

impl<T, P: Ord> Merge<T, P> {
    /// A merge of `streams`.
    pub fn new(streams: Vec<Stream<T>>, at: fn(&T) -> P, choose: fn(T, T) -> T) -> Merge<T, P> {
        Merge { streams: streams.into_iter().map(Iterator::peekable).collect(), at, choose }
    }

    /// The lowest position any stream stands at; errors come before everything.
    fn lowest(&mut self) -> Result<Option<P>, StorageError> {
        let mut lowest: Option<P> = None;
        for stream in &mut self.streams {
            let position = match stream.peek() {
                None => continue,
                Some(Err(_)) => return Err(stream.next().and_then(Result::err).expect("just peeked at an error")),
                Some(Ok(item)) => (self.at)(item),
            };
            lowest = Some(match lowest {
                Some(other) => other.min(position),
                None => position,
            });
        }
        Ok(lowest)
    }

    fn advance(&mut self) -> Result<Option<T>, StorageError> {
        let Some(position) = self.lowest()? else { return Ok(None) };
        let mut chosen = None;
        for stream in &mut self.streams {
            let here = |item: &Result<T, StorageError>| item.as_ref().is_ok_and(|item| (self.at)(item) == position);
            if let Some(item) = stream.next_if(here) {
                let item = item?;
                chosen = Some(match chosen {
                    Some(older) => (self.choose)(older, item),
                    None => item,
                });
            }
        }
        Ok(chosen)
    }
}

impl<T, P: Ord> Iterator for Merge<T, P> {
    type Item = Result<T, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}
