//! Whether a chat template shows the model a system prompt.

use burn_finetune::{ChatTemplate, Message};

/// Refuses a system prompt that the template does not show to the model.
///
/// # Errors
/// Why it does not.
pub fn check(template: &ChatTemplate, system: &str) -> Result<(), String> {
    let user = Message::new("user", "Hello");
    // A template that fails without one as well says so when the chat begins.
    let Ok(without) = template.render(std::slice::from_ref(&user), true) else {
        return Ok(());
    };
    match template.render(&[Message::new("system", system), user], true) {
        Err(error) => Err(format!(
            "the model's chat template takes no system prompt ({error})"
        )),
        Ok(with) if with == without => {
            Err("the model's chat template leaves the system prompt out".to_owned())
        }
        Ok(_) => Ok(()),
    }
}
