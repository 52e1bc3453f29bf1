import com.google.inject.AbstractModule;
import com.google.inject.Provides;
import eu.unicore.security.Client;
import eu.unicore.util.ChannelUtils;
import eu.unicore.util.httpclient.ClientProperties;
import eu.unicore.util.httpclient.DefaultClientConfiguration;
import eu.unicore.util.httpclient.IClientConfiguration;
import eu.unicore.util.httpclient.IPlainClientConfiguration;
import eu.unicore.xnjs.ConfigurationSource;
import eu.unicore.xnjs.XNJS;
import eu.unicore.xnjs.ems.Action;
import eu.unicore.xnjs.ems.ActionStatus;
import eu.unicore.xnjs.ems.BasicManager;
import eu.unicore.xnjs.ems.ExecutionContext;
import eu.unicore.xnjs.ems.InternalManager;
import eu.unicore.xnjs.ems.Manager;
import eu.unicore.xnjs.io.XnjsFile;
import eu.unicore.xnjs.io.http.IConnectionFactory;
import eu.unicore.xnjs.io.http.SimpleConnectionFactory;
import eu.unicore.xnjs.persistence.IActionStoreFactory;
import eu.unicore.xnjs.persistence.JDBCActionStoreFactory;
import eu.unicore.xnjs.tsi.IExecutionSystemInformation;
import eu.unicore.xnjs.tsi.remote.RemoteTSI;
import eu.unicore.xnjs.tsi.remote.TSIConnection;
import eu.unicore.xnjs.tsi.remote.TSIConnectionFactory;
import eu.unicore.xnjs.tsi.remote.TSIMessages;
import eu.unicore.xnjs.tsi.remote.server.ServerTSIModule;
import java.io.File;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.channels.SocketChannel;
import java.util.Arrays;
import java.util.Properties;
import org.json.JSONObject;

/**
 * UNICORE's own XNJS in front of a TSI: `UnicoreXnjs <properties> <directory> <login> <address that echoes a line>`.
 * Prints one JSON object that says what it got.
 */
public class UnicoreXnjs {
	private static final int CONTENT_BYTES = 3_000_001;
	private static final long JOB_MILLIS = 60_000;

	private final XNJS xnjs;
	private final RemoteTSI tsi;
	private final Client client;
	private final String directory;

	public static void main(String[] args) {
		try {
			JSONObject seen = new JSONObject();
			UnicoreXnjs driver = new UnicoreXnjs(new File(args[0]), args[1], args[2]);
			driver.files(seen);
			driver.information(seen);
			driver.jobs(seen);
			driver.forwarding(seen, args[3]);
			System.out.println("SEEN " + seen);
			System.exit(0);
		} catch (Exception failure) {
			failure.printStackTrace();
			System.exit(1); // threads of the XNJS would go on
		}
	}

	private UnicoreXnjs(File file, String directory, String login) throws Exception {
		ConfigurationSource source = new ConfigurationSource();
		Properties properties = source.getProperties();
		try (InputStream in = new java.io.FileInputStream(file)) {
			properties.load(in);
		}
		boolean plain = !properties.containsKey("credential.path");
		IClientConfiguration security = plain ? new DefaultClientConfiguration() : new ClientProperties(file);
		source.addModule(new Base(security));
		source.addModule(new ServerTSIModule(properties));
		xnjs = new XNJS(source);
		xnjs.start();
		this.directory = directory;
		client = TSIMessages.createMinimalClient(login);
		tsi = (RemoteTSI) xnjs.getTargetSystemInterface(client);
	}

	private void files(JSONObject seen) throws Exception {
		TSIConnectionFactory factory = xnjs.get(TSIConnectionFactory.class);
		try (TSIConnection connection = factory.getTSIConnection(client, null, -1)) {
			seen.put("version", connection.getTSIVersion()).put("alive", connection.isAlive());
		}
		tsi.setStorageRoot(directory);
		byte[] content = new byte[CONTENT_BYTES];
		for (int i = 0; i < content.length; i++) content[i] = (byte) (i * 31 >> 3);
		tsi.mkdir("sub");
		try (OutputStream out = tsi.getOutputStream("sub/content")) {
			out.write(content);
		}
		byte[] read;
		try (InputStream in = tsi.getInputStream("sub/content")) {
			read = in.readAllBytes();
		}
		tsi.cp("sub/content", "sub/copy of it");
		tsi.rename("sub/content", "sub/moved");
		String[] names = Arrays.stream(tsi.ls("sub")).map(XnjsFile::getPath).sorted().toArray(String[]::new);
		seen.put("sameBytes", Arrays.equals(content, read)).put("names", names);
		seen.put("size", tsi.getProperties("sub/moved").getSize());
		tsi.rmdir("sub");
		seen.put("left", tsi.ls("/").length);
		try {
			tsi.cp("/no such file", "any");
		} catch (Exception refused) {
			seen.put("refusal", refused.getMessage());
		}
	}

	private void information(JSONObject seen) throws Exception {
		ExecutionContext context = new ExecutionContext();
		context.setWorkingDirectory(directory);
		context.setStdout("who");
		tsi.execAndWait("id -un", context);
		try (InputStream in = tsi.getInputStream("who")) {
			seen.put("user", new String(in.readAllBytes()).trim());
		}
		seen.put("space", tsi.doDF(directory).getTotalSpace());
		seen.put("partitions", xnjs.get(IExecutionSystemInformation.class).getPartitionInfo().size());
		seen.put("budget", tsi.getComputeTimeBudget().toString());
		seen.put("userInfo", tsi.getUserInfo() != null);
	}

	private void jobs(JSONObject seen) throws Exception {
		JSONObject batch = new JSONObject().put("Executable", "sh -c 'echo out; echo err >&2; exit 3'");
		seen.put("batch", outcome(start(batch)));
		JSONObject login = new JSONObject().put("Executable", "echo login").put("Job type", "ON_LOGIN_NODE");
		seen.put("login", outcome(start(login)));
		for (String type : new String[] {"NORMAL", "ON_LOGIN_NODE"}) {
			Action action = start(new JSONObject().put("Executable", "sleep 1000").put("Job type", type));
			await(action, ActionStatus.RUNNING);
			Manager manager = xnjs.get(Manager.class);
			manager.pause(action.getUUID(), client);
			await(action, ActionStatus.PAUSED);
			manager.resume(action.getUUID(), client);
			await(action, ActionStatus.RUNNING);
			manager.abort(action.getUUID(), client);
			await(action, ActionStatus.DONE);
			Action ended = xnjs.get(InternalManager.class).getAction(action.getUUID());
			seen.put("log of " + type, ended.getLog().toString()).put("id of " + type, ended.getBSID());
		}
	}

	private Action start(JSONObject job) throws Exception {
		Action action = xnjs.makeAction(job);
		action.setClient(client);
		Manager manager = xnjs.get(Manager.class);
		manager.add(action, client);
		await(action, ActionStatus.READY);
		manager.run(action.getUUID(), client);
		return action;
	}

	private void await(Action action, int status) throws Exception {
		Manager manager = xnjs.get(Manager.class);
		for (long end = System.currentTimeMillis() + JOB_MILLIS; ; Thread.sleep(50)) {
			int now = manager.getStatus(action.getUUID(), client);
			if (now == status) return;
			if (now == ActionStatus.DONE || System.currentTimeMillis() > end)
				throw new IllegalStateException(
					"not " + ActionStatus.toString(status) + " but " + ActionStatus.toString(now) + ": "
						+ xnjs.get(InternalManager.class).getAction(action.getUUID()).getLog());
		}
	}

	private JSONObject outcome(Action action) throws Exception {
		await(action, ActionStatus.DONE);
		Action ended = xnjs.get(InternalManager.class).getAction(action.getUUID());
		ExecutionContext context = ended.getExecutionContext();
		tsi.setStorageRoot(context.getWorkingDirectory());
		try (InputStream out = tsi.getInputStream("stdout"); InputStream err = tsi.getInputStream("stderr")) {
			return new JSONObject()
				.put("exit", context.getExitCode())
				.put("stdout", new String(out.readAllBytes()))
				.put("stderr", new String(err.readAllBytes()));
		}
	}

	private void forwarding(JSONObject seen, String address) throws Exception {
		SocketChannel channel = tsi.openConnection(address);
		OutputStream out = ChannelUtils.newOutputStream(channel, 65_536);
		out.write("there and back\n".getBytes());
		out.flush();
		InputStream in = ChannelUtils.newInputStream(channel, 65_536);
		StringBuilder line = new StringBuilder();
		byte[] block = new byte[64]; // their stream cannot be read by single bytes
		for (int n; line.indexOf("\n") < 0 && (n = in.read(block)) >= 0; ) line.append(new String(block, 0, n));
		seen.put("forwarded", line.toString().trim());
		channel.close();
	}

	/** What UNICORE/X binds for its own XNJS, in short. */
	private static final class Base extends AbstractModule {
		private final IClientConfiguration security;

		Base(IClientConfiguration security) {
			this.security = security;
		}

		@Override
		protected void configure() {
			bind(InternalManager.class).to(BasicManager.class);
			bind(Manager.class).to(BasicManager.class);
			bind(IActionStoreFactory.class).to(JDBCActionStoreFactory.class);
		}

		@Provides
		public IConnectionFactory connections() {
			return new SimpleConnectionFactory();
		}

		@Provides
		public IClientConfiguration security() {
			return security;
		}

		@Provides
		public IPlainClientConfiguration plainSecurity() {
			return security;
		}
	}
}
