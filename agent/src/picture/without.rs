//! No camera: this agent was built without the feature `screenshot`.

use std::path::Path;

use super::{Order, PictureSettings, Shot};

/// There is none.
#[derive(Debug, Clone)]
pub enum Camera {}

impl Camera {
    /// Never finds one.
    pub fn find(_: &PictureSettings, _: &Path) -> Option<Self> {
        None
    }

    /// Never called.
    pub async fn take(&self, _: &Order) -> Shot {
        match *self {}
    }
}
