use super::History;
pub struct Client;
pub fn of(_history: &History) -> Vec<Client> { Vec::new() }
