//! Operations: each route once, for the router and for the OpenAPI document.

use std::collections::BTreeMap;

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, on};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem, Paths, PathsBuilder,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, SchemaType, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{
    Components, ComponentsBuilder, ContentBuilder, Ref, RefOr, Required, ResponseBuilder, Schema,
};

use crate::admin::api_error::ErrorView;
use crate::admin::body::{Body, BodySchema};
use crate::admin::state::AdminState;
use crate::organization::rights::{AccessLevel, Action};

type Schemas = Vec<(String, RefOr<Schema>)>;

/// What the document says of an operation.
pub struct OperationSpec {
    summary: &'static str,
    access: Value,
    organization: bool,
    body: Option<(&'static str, RefOr<Schema>)>,
    response: RefOr<Schema>,
    media_type: &'static str,
    query_params: &'static [(&'static str, &'static str)],
    schemas: Schemas,
}

/// The query of every list.
pub const LIST_PARAMS: &[(&str, &str)] = &[
    ("page", "From 1."),
    ("size", "Rows a page: 1 to 100, 20 by default."),
    ("sort", "A field, or one with - before it: largest first. Newest first by default."),
    ("query", "A part of the name, upper or lower case."),
    ("status", "Only those with this status."),
];

/// Every operation, as a router and as paths of the document.
#[derive(Default)]
pub struct Routes {
    router: Router<AdminState>,
    paths: PathsBuilder,
    schemas: BTreeMap<String, RefOr<Schema>>,
}

impl OperationSpec {
    /// An operation that takes this right, in one organization.
    pub fn in_organization(right: Action, summary: &'static str) -> Self {
        Self::with_access(access_json(right), true, summary)
    }

    /// One that takes this right, in no organization.
    pub fn platform(right: Action, summary: &'static str) -> Self {
        Self::with_access(access_json(right), false, summary)
    }

    /// One for whoever knows the password or the link.
    pub fn public(summary: &'static str) -> Self {
        Self::with_access(json!({"public": true}), false, summary)
    }

    fn with_access(access: Value, organization: bool, summary: &'static str) -> Self {
        let response = in_envelope(message_schema().into());
        let (body, media_type, query_params) = (None, "application/json", &[][..]);
        Self {
            summary,
            access,
            organization,
            body,
            response,
            media_type,
            query_params,
            schemas: Vec::new(),
        }
    }

    /// Takes this body.
    #[must_use]
    pub fn request_body<B: Body>(mut self) -> Self {
        self.body = Some((B::NAME, BodySchema::of::<B>().into()));
        self
    }

    /// Answers one of these.
    #[must_use]
    pub fn response<T: ToSchema>(mut self) -> Self {
        self.response = in_envelope(self.schema_ref::<T>());
        self
    }

    /// Answers a list of these.
    #[must_use]
    pub fn list_response<T: ToSchema>(mut self) -> Self {
        let rows = ArrayBuilder::new().items(self.schema_ref::<T>());
        let whole = || ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer));
        self.response = ObjectBuilder::new()
            .property("data", rows)
            .required("data")
            .property("total", whole())
            .required("total")
            .property("page", whole())
            .required("page")
            .property("size", whole())
            .required("size")
            .property("nextCursor", nullable_string())
            .property("totalIsMinimum", boolean())
            .property("asOf", nullable_string())
            .into();
        self
    }

    /// Answers a text of this media type.
    #[must_use]
    pub fn text_response(mut self, media: &'static str) -> Self {
        self.media_type = media;
        self.response = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).into();
        self
    }

    /// Takes these query parameters.
    #[must_use]
    pub const fn query_params(mut self, query: &'static [(&'static str, &'static str)]) -> Self {
        self.query_params = query;
        self
    }

    fn schema_ref<T: ToSchema>(&mut self) -> RefOr<Schema> {
        self.schemas.push((T::name().into(), T::schema()));
        T::schemas(&mut self.schemas);
        Ref::from_schema_name(T::name()).into()
    }
}

impl Routes {
    /// Adds an operation.
    #[must_use]
    pub fn add<H, T>(
        mut self,
        method: &Method,
        path: &'static str,
        handler: H,
        doc: OperationSpec,
    ) -> Self
    where
        H: Handler<T, AdminState>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).unwrap_or(MethodFilter::GET);
        self.router = self.router.route(path, on(filter, handler));
        self.add_to_document(method, path, doc);
        self
    }

    fn add_to_document(&mut self, method: &Method, path: &'static str, doc: OperationSpec) {
        let public = doc.access.get("public").is_some();
        let mut operation = OperationBuilder::new()
            .summary(Some(doc.summary))
            .operation_id(Some(format!("{} {path}", method.as_str())))
            .tag(path.split('/').nth(2).unwrap_or("service"))
            .extensions(Some(ExtensionsBuilder::new().add("x-access", doc.access).build()));
        for name in path.split('{').skip(1).filter_map(|part| part.split('}').next()) {
            operation = operation.parameter(parameter(name, ParameterIn::Path, ""));
        }
        for (name, description) in doc.query_params {
            operation = operation.parameter(parameter(name, ParameterIn::Query, description));
        }
        if doc.organization {
            let about = "Which organization, where the token or membership leaves it open.";
            let header = parameter("X-Organization-Id", ParameterIn::Header, about);
            operation = operation.parameter(header);
        }
        if public {
            operation = operation.securities(Some([SecurityRequirement::default()]));
        }
        if *method == Method::POST && !public {
            let about = "The same key with the same request is done once, within a day.";
            let header = parameter("Idempotency-Key", ParameterIn::Header, about);
            operation = operation.parameter(header);
        }
        if let Some((name, schema)) = doc.body {
            self.schemas.insert(name.to_owned(), schema);
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(name)));
            let body = RequestBodyBuilder::new()
                .content("application/json", content.build())
                .required(Some(Required::True));
            operation = operation.request_body(Some(body.build()));
        }
        let content = ContentBuilder::new().schema(Some(doc.response)).build();
        let yes = ResponseBuilder::new().description("Done.").content(doc.media_type, content);
        let no = ResponseBuilder::new().description("Not done: `error` says why.").content(
            "application/json",
            ContentBuilder::new().schema(Some(Ref::from_schema_name("Failure"))).build(),
        );
        let operation = operation.response("200", yes).response("default", no);
        let item = PathItem::new(http_method(method), operation);
        self.paths = std::mem::take(&mut self.paths).path(path, item);
        self.schemas.extend(doc.schemas);
    }

    /// The router, and what the document is made of.
    pub fn build(self) -> (Router<AdminState>, Paths, Components) {
        let mut schemas = Schemas::new();
        ErrorView::schemas(&mut schemas);
        schemas.push((ErrorView::name().into(), <ErrorView as utoipa::PartialSchema>::schema()));
        let null = ObjectBuilder::new().schema_type(SchemaType::Type(Type::Null));
        let failure = ObjectBuilder::new()
            .property("data", null)
            .required("data")
            .property("code", ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer)))
            .required("code")
            .property("error", Ref::from_schema_name("Error"))
            .required("error");
        schemas.push(("Failure".to_owned(), failure.into()));
        let all = self.schemas.into_iter().chain(schemas);
        let components = ComponentsBuilder::new().schemas_from_iter(all).build();
        (self.router, self.paths.build(), components)
    }
}

/// Who may, as the rights say it.
fn access_json(right: Action) -> Value {
    let rule = right.rule();
    let in_project = |reach| match reach {
        AccessLevel::None => None,
        AccessLevel::Own => Some("own"),
        AccessLevel::All => Some("all"),
    };
    json!({
        "operator": true,
        "admin": rule.admin,
        "member": rule.member,
        "permission": rule.permission.map(crate::organization::roles::Permission::name),
        "projectRole": {
            "Owner": in_project(rule.owner),
            "Member": in_project(rule.project_member),
        },
        "selfFunding": rule.self_funding,
        "scope": rule.scope.name(),
    })
}

fn parameter(name: &str, place: ParameterIn, description: &str) -> ParameterBuilder {
    let required = matches!(place, ParameterIn::Path);
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(if required { Required::True } else { Required::False })
        .description(Some(description).filter(|text| !text.is_empty()))
        .schema(Some(ObjectBuilder::new().schema_type(SchemaType::Type(Type::String))))
}

fn in_envelope(data: RefOr<Schema>) -> RefOr<Schema> {
    ObjectBuilder::new()
        .property("data", data)
        .required("data")
        .property("code", ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer)))
        .required("code")
        .property("error", ObjectBuilder::new().schema_type(SchemaType::Type(Type::Null)))
        .required("error")
        .property("asOf", nullable_string())
        .into()
}

fn message_schema() -> ObjectBuilder {
    ObjectBuilder::new()
        .property("message", ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)))
        .required("message")
}

fn nullable_string() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Array(vec![Type::String, Type::Null]))
}

fn boolean() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::Boolean))
}

fn http_method(method: &Method) -> HttpMethod {
    match method.as_str() {
        "POST" => HttpMethod::Post,
        "PUT" => HttpMethod::Put,
        "DELETE" => HttpMethod::Delete,
        _ => HttpMethod::Get,
    }
}
