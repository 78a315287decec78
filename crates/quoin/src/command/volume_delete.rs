//! `quoin volume delete`.

use crate::client::Client;
use crate::command::volume_show;
use crate::failure::Failure;
use crate::units::size::Size;
use crate::view::Report;
use clap::Args;
use quoin_api::v1::DeleteVolumeRequest;
use std::io::{self, BufRead, IsTerminal, Write};
use tonic::Code;

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// The volume's name
    name: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Delete it even while clients use it
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(client: &Client, args: DeleteArgs) -> Result<Report, Failure> {
    if !args.yes && io::stdin().is_terminal() {
        let volume = volume_show::get(client, &args.name).await?;
        let question =
            format!("Delete {} ({}) and all its data? [y/N] ", volume.name, Size(volume.size_bytes));
        confirm(&question)?;
    }
    let request = || DeleteVolumeRequest { name: args.name.clone(), force: args.force };
    let mut tries = 0;
    let answer = client
        .ask_raw(async |mut cluster| {
            tries += 1;
            cluster.delete_volume(request()).await
        })
        .await;
    match answer {
        Ok(_) => {}
        // The manager asked first did it, but did not answer in time.
        Err(status) if status.code() == Code::NotFound && tries > 1 => {}
        Err(status) if status.code() == Code::NotFound => {
            return Err(volume_show::not_found(client, &args.name).await);
        }
        Err(status) if status.code() == Code::FailedPrecondition && !args.force => {
            let failure = client.failure(&status);
            return Err(match failure.hint {
                Some(_) => failure,
                None => failure.hint("disconnect its clients first; --force deletes it under them"),
            });
        }
        Err(status) => return Err(client.failure(&status)),
    }
    let text = format!("deleted {}\n", args.name);
    Ok(Report::new(text, serde_json::json!({ "deleted": args.name })))
}

fn confirm(question: &str) -> Result<(), Failure> {
    let mut stderr = io::stderr().lock();
    let mut answer = String::new();
    let asked = stderr.write_all(question.as_bytes()).and_then(|()| stderr.flush());
    asked
        .and_then(|()| io::stdin().lock().read_line(&mut answer))
        .map_err(|error| Failure::io("ask", &error))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::failed("not confirmed, nothing was deleted").hint("--yes deletes without asking")),
    }
}
