//! Nobody takes pictures: this agent was built without the feature `screenshot`.

use std::path::Path;

use super::{Order, PictureSettings, Shot};

/// There is none.
#[derive(Debug, Clone)]
pub enum Photographer {}

impl Photographer {
    /// Never finds one.
    pub fn find(_: &PictureSettings, _: &Path) -> Option<Self> {
        None
    }

    /// Never called.
    pub async fn take(&self, _: &Order) -> Shot {
        match *self {}
    }
}
