// Draws the page of the API from its description; a key that is typed in stays in this tab.
const docs = document.getElementById("docs");
SwaggerUIBundle({ url: docs.dataset.description, domNode: docs, validatorUrl: null, deepLinking: true });
