//! What one partition found among its own rows, and sizes that were told wrong.

use bark_schema::audit::AuditFault;
use bark_schema::ids::{InodeId, PartitionId};
use bark_schema::repair::RepairStep;
use bark_schema::usage::files_of;

use super::{Operation, Reason, Surgeon};

impl<S: Surgeon> Operation<'_, S> {
    pub(super) async fn put_fault_right(
        &mut self,
        partition: PartitionId,
        fault: AuditFault,
        what: &str,
    ) -> Result<(), Reason> {
        // Most need no quarantine, which is made when something comes there.
        let nowhere = InodeId(0);
        let step = |quarantine| RepairStep::Fault { fault, quarantine };
        let needs_names = match self.plan(partition, step(nowhere)).await? {
            Some(page) => !page.names.is_empty(),
            None => return Ok(()),
        };
        let quarantine = match needs_names {
            true => self.quarantine().await?,
            false => nowhere,
        };
        self.step_with_names(partition, step(quarantine), what).await
    }

    /// Whoever contributes to a directory tells it again what it takes; what nobody contributes is forgotten.
    pub(super) async fn tell_again(
        &mut self,
        directory: InodeId,
        contributor: InodeId,
        what: &str,
    ) -> Result<(), Reason> {
        let told = self.examination.told(directory, contributor).await;
        let stays = told.map_err(|failure| failure.to_string())?.is_some();
        let forget = RepairStep::Contribution {
            directory,
            contributor,
            stays,
        };
        self.step(directory.home(), forget, what).await?;
        if stays {
            let row = match contributor == files_of(contributor.home()) {
                true => directory,
                false => contributor,
            };
            let tell = RepairStep::Tell { directory: row };
            self.step(contributor.home(), tell, what).await?;
        }
        Ok(())
    }
}
