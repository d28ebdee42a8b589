// Shows openapi.json; a token that is entered stays in the page and is gone with it.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  displayRequestDuration: true,
  filter: true,
  docExpansion: "list",
  persistAuthorization: false,
  // Else the document would be sent to a service of Swagger's.
  validatorUrl: null,
});
