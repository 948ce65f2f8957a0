# The build runs on the builder's own platform and cross-compiles: no emulation.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
# Modules alone first: this layer outlives changes of the source.
COPY go.mod go.sum ./
RUN go mod download
COPY cmd cmd
COPY internal internal
ARG TARGETOS TARGETARCH
ARG VERSION=dev
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o /kdp-webhook ./cmd/webhook

FROM scratch
COPY --from=build /kdp-webhook /kdp-webhook
# A number: runAsNonRoot cannot be checked against a name.
USER 65532:65532
ENTRYPOINT ["/kdp-webhook"]
