//! Directories that one client has for itself.

use super::Result;
use super::read;
use super::write::write_inodes;
use crate::delegation::DelegationCommand;
use crate::generated::common_capnp as wire;
use crate::ids::ClientId;

pub fn write_delegation_command(
    command: &DelegationCommand,
    mut builder: wire::delegation_command::Builder<'_>,
) {
    let (client, directories) = match command {
        DelegationCommand::Take {
            client,
            directories,
            lease_ms,
        } => {
            builder.set_take(*lease_ms);
            (client, directories)
        }
        DelegationCommand::GiveBack { client, directories } => {
            builder.set_give_back(());
            (client, directories)
        }
    };
    builder.set_client(client.0);
    write_inodes(directories, builder.init_directories(directories.len() as u32));
}

pub fn read_delegation_command(reader: wire::delegation_command::Reader<'_>) -> Result<DelegationCommand> {
    let client = ClientId(reader.get_client());
    let directories = read::inodes(reader.get_directories())?;
    Ok(match reader.which()? {
        wire::delegation_command::Take(lease_ms) => DelegationCommand::Take {
            client,
            directories,
            lease_ms,
        },
        wire::delegation_command::GiveBack(()) => DelegationCommand::GiveBack { client, directories },
    })
}
