//! The audit log, as changes are written down and as operators read it.

use tokio::task::block_in_place;
use tonic::Status;
use zerkalo_proto::code::code_of;
use zerkalo_proto::operator_v1 as wire;

use super::Operator;
use crate::access::Bearing;

/// Lines in one answer if nothing else is asked for, and at most.
const LINES_MAX: u32 = 1_000;
/// Bytes of lines in one answer: clients read 4 MiB.
const LINES_LEN_MAX: usize = 1_500_000;

impl Operator {
    /// Writes a change down before it is made; gives the line's number.
    pub(super) fn write_down(
        &self,
        bearing: &Bearing,
        act: &'static str,
        about: Vec<(&'static str, String)>,
    ) -> Result<u64, Status> {
        let act = bearing.act(act, about);
        block_in_place(|| self.state.audit(&act)).map_err(|error| self.not_kept(&error))
    }

    /// Where a change was refused after all, writes that down too.
    pub(super) fn or_taken_back<T>(
        &self,
        bearing: &Bearing,
        number: u64,
        made: Result<T, Status>,
    ) -> Result<T, Status> {
        if let Err(status) = &made {
            let code = code_of(status).unwrap_or("failed").to_owned();
            // The first line stands whatever becomes of this one: nothing was changed without a line.
            let _ = self.write_down(bearing, "refused", vec![("line", number.to_string()), ("code", code)]);
        }
        made
    }

    /// Makes a change between the two.
    pub(super) fn audited<T>(
        &self,
        bearing: &Bearing,
        act: &'static str,
        about: Vec<(&'static str, String)>,
        change: impl FnOnce() -> Result<T, Status>,
    ) -> Result<T, Status> {
        let number = self.write_down(bearing, act, about)?;
        self.or_taken_back(bearing, number, change())
    }

    pub(super) fn audit_after(
        &self,
        request: &wire::ListAuditRequest,
    ) -> Result<wire::ListAuditResponse, Status> {
        let limit = if request.limit == 0 { LINES_MAX } else { request.limit.min(LINES_MAX) };
        let read = block_in_place(|| self.state.audit_lines(request.after, limit as usize, LINES_LEN_MAX));
        let (lines, head) = read.map_err(|error| self.failed(&error))?;
        let head_sha256 = head.sha256.to_string();
        Ok(wire::ListAuditResponse { lines, head_number: head.number, head_sha256 })
    }
}
