// The page works without this file, which only says that the model is busy.
const form = document.querySelector("form");

function wait(busy) {
  form.querySelector("button").disabled = busy;
  document.getElementById("status").textContent = busy ? "Asking the model…" : "";
}

form?.addEventListener("submit", () => wait(true));
addEventListener("pageshow", () => form && wait(false)); // also after the back button
