import { mount } from "./mount";
import { App } from "./state/app";
import { Preferring } from "./state/preferences";
import { Session } from "./transport/session";
import { Page } from "./view/page";

const app = new App(new Session());
app.start();
void mount(app, new Preferring(), <Page />);
