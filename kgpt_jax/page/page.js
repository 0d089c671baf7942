// The page works without this file, which only says that the model is busy.
const form = document.querySelector("form");

function say(text) {
  document.getElementById("status").textContent = text;
}

// The button stays enabled, because no event tells us that the visitor has stopped the browser.
form?.addEventListener("submit", () => say("Asking the model…"));
form?.addEventListener("input", () => say(""));
addEventListener("pageshow", () => form && say("")); // also after the back button
