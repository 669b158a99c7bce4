//! A page that is filled again item by item, as `PageGetTempPageCopySpecial` and `PageRestoreTempPage` bracket it.

use super::opaque::Opaque;
use crate::error::Misfit;
use crate::page_items::{Page, add_index_item};
use quire_types::PAGE_SIZE;

/// The page so far.
pub(super) struct Rebuilt {
    page: Page,
    items: u16,
}

impl Rebuilt {
    /// An empty page with this special space.
    pub fn new(opaque: Opaque) -> Result<Rebuilt, Misfit> {
        let mut page = [0; PAGE_SIZE];
        opaque.init_page(&mut page)?;
        Ok(Rebuilt { page, items: 0 })
    }

    /// Appends an item.
    pub fn push(&mut self, item: &[u8]) -> Result<(), Misfit> {
        self.items += 1;
        add_index_item(&mut self.page, self.items, item)
    }

    /// The page.
    pub fn into_page(self) -> Page {
        self.page
    }
}
