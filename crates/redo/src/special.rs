//! The special space at the end of an index's page, which each access method lays out in its own way.

use crate::error::Misfit;
use crate::page_items::{Bounds, Page};
use quire_types::PAGE_SIZE;

/// Refuses a page whose special space does not begin at `at`: it is of another kind, or damaged.
#[inline]
pub(crate) fn check(page: &Page, at: usize) -> Result<(), Misfit> {
    match Bounds::of(page)?.special {
        special if special == at => Ok(()),
        special => Err(Misfit::Special(PAGE_SIZE - special)),
    }
}
